# All headers in two units of one program: what is not inline is defined twice and does not link.
# g++ keeps unused inline functions, so that they count; clang++ cannot. Nothing may hold state at
# namespace scope, so that two shared objects of one process can embed the library.
#
#   cmake -DCOMPILER=<c++> -DCOMPILER_ID=<GNU|Clang> -DINCLUDE=<dir> -DSTRICT=<flags>
#         -DDIR=<scratch> -P linked_twice.cmake
include("${CMAKE_CURRENT_LIST_DIR}/all_headers.cmake")

includes_of(headers text)
file(WRITE "${DIR}/first.cpp" "${text}int second();\nint main() { return second(); }\n")
file(WRITE "${DIR}/second.cpp" "${text}int second();\nint second() { return 0; }\n")

set(keep "")
if(COMPILER_ID STREQUAL "GNU")
  set(keep -fkeep-inline-functions)
endif()

set(objects "")
foreach(unit IN ITEMS first second)
  run("${unit}.cpp does not compile" "${COMPILER}" -std=c++20 -O0 ${STRICT} ${keep} -c
      "${DIR}/${unit}.cpp" -o "${DIR}/${unit}.o")
  list(APPEND objects "${DIR}/${unit}.o")
endforeach()
run("two units that include every header do not link" "${COMPILER}" ${objects} -o "${DIR}/program"
    -pthread)
run("the program fails" "${DIR}/program")

# Writable data that belongs to the library, guard variables of static locals included.
run("objdump fails" objdump --syms --demangle "${DIR}/first.o")
string(REGEX MATCHALL "[^\n]* \\.t?(data|bss)[^\n]*dpgather::[^\n]*" state "${output}")
list(FILTER state EXCLUDE REGEX "\\.data\\.rel\\.ro")
if(state)
  list(JOIN state "\n" state)
  message("${state}")
  message(FATAL_ERROR "a header holds state at namespace scope or in a static local")
endif()
