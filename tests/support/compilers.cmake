# DPGATHER_COMPILERS: the compilers that compile_fail and headers tests are run with. The one in use
# always; clang++ beside g++ where one is installed that can compile C++20 with this standard library.
set(DPGATHER_COMPILERS "${CMAKE_CXX_COMPILER}")

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  find_program(DPGATHER_CLANGXX NAMES clang++ DOC "Second compiler of the tests; may be missing")
  if(DPGATHER_CLANGXX)
    file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/probe.cpp"
         "#include <algorithm>\n#include <concepts>\n#include <thread>\nint main() {}\n")
    execute_process(COMMAND "${DPGATHER_CLANGXX}" -std=c++20 -fsyntax-only
                            "${CMAKE_CURRENT_BINARY_DIR}/probe.cpp"
                    RESULT_VARIABLE _result OUTPUT_QUIET ERROR_QUIET)
    if(_result EQUAL 0)
      list(APPEND DPGATHER_COMPILERS "${DPGATHER_CLANGXX}")
    else()
      message(STATUS "dpgather: ${DPGATHER_CLANGXX} is left out, it cannot compile C++20 here")
    endif()
  endif()
endif()

# dpgather_compiler_id(<compiler> <out>): GNU or Clang.
function(dpgather_compiler_id compiler out)
  if(compiler STREQUAL CMAKE_CXX_COMPILER)
    set(${out} "${CMAKE_CXX_COMPILER_ID}" PARENT_SCOPE)
  else()
    set(${out} "Clang" PARENT_SCOPE)
  endif()
endfunction()
