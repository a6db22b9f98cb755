# dpgather_register_test(<name> LABELS <label>...): properties that every test has.
function(dpgather_register_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LABELS")
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${DPGATHER_TEST_TIMEOUT})
  # A test that lacks its GPU exits with 77 and is reported as skipped, never as passed.
  if("gpu" IN_LIST arg_LABELS OR "multi" IN_LIST arg_LABELS)
    # Multicast objects are a shared resource of the machine that these tests can do without.
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 RESOURCE_LOCK gpu
                                            ENVIRONMENT "NCCL_NVLS_ENABLE=0")
  endif()
endfunction()

# dpgather_add_doctest(<file> LABELS <label>...): <file>, relative to tests/, becomes one executable
# and one test; protocol/flags.cpp is the test `protocol.flags`.
function(dpgather_add_doctest file)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LABELS")
  string(REGEX REPLACE "\\.(cpp|cu)$" "" name "${file}")
  string(REPLACE "/" "." name "${name}")

  set(target "test.${name}")
  add_executable(${target} "${PROJECT_SOURCE_DIR}/tests/${file}")
  set(main dpgather_test_main)
  if(file MATCHES "\\.cu$")
    set(main dpgather_test_main_1_gpu)
    # Host code of tests need not be fast; optimizing it is most of what they cost to compile.
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-O1>")
  endif()
  if("multi" IN_LIST arg_LABELS)
    set(main dpgather_test_main_2_gpu)
  endif()
  target_link_libraries(${target} PRIVATE ${main} dpgather_warnings)
  if("multi" IN_LIST arg_LABELS)
    target_link_libraries(${target} PRIVATE NCCL::NCCL)
  elseif(file MATCHES "^fake/")
    target_link_libraries(${target} PRIVATE dpgather_fake_cuda)
  endif()
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_precompile_headers(${target} REUSE_FROM dpgather_test_pch)

  # A test that fails everywhere would bury its first failure, and take minutes to do so.
  add_test(NAME ${name} COMMAND ${target} --abort-after=20)
  dpgather_register_test(${name} LABELS ${arg_LABELS})
endfunction()

set(DPGATHER_TEST_MATCHING "" CACHE STRING "Build only tests whose file (relative to tests) matches; empty: all")

# Every .cpp, and every .cu where nvcc is in use, outside the folders with rules of their own.
function(dpgather_add_mirrored_tests)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}"
       "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp" "${CMAKE_CURRENT_SOURCE_DIR}/*.cu")
  list(FILTER files EXCLUDE REGEX "^(support|compile_fail|headers|consume|objects|models)/")
  if(DPGATHER_TEST_MATCHING)
    list(FILTER files INCLUDE REGEX "${DPGATHER_TEST_MATCHING}")
  endif()
  foreach(file IN LISTS files)
    if(file MATCHES "^speed/")
      dpgather_add_doctest("${file}" LABELS host speed)
      string(REGEX REPLACE "^speed/(.*)\\.cpp$" "speed.\\1" name "${file}")
      set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
    elseif(file MATCHES "^fake/")
      if(DPGATHER_TOOLKIT_INCLUDES)
        dpgather_add_doctest("${file}" LABELS host fake)
      endif()
    elseif(file MATCHES "\\.cpp$")
      dpgather_add_doctest("${file}" LABELS host)
    elseif(file MATCHES "^multi/")
      if(DPGATHER_HAS_NCCL)
        dpgather_add_doctest("${file}" LABELS multi)
      endif()
    elseif(DPGATHER_HAS_CUDA)
      dpgather_add_doctest("${file}" LABELS gpu)
    endif()
  endforeach()
endfunction()
