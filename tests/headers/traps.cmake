# All headers after macros that other libraries define.
#
#   cmake -DCOMPILER=<c++> -DINCLUDE=<dir> -DSTRICT=<flags> -DDIR=<scratch> -P traps.cmake
include("${CMAKE_CURRENT_LIST_DIR}/all_headers.cmake")

includes_of(foreign before)
includes_of(headers after)
file(WRITE "${DIR}/traps.cpp"
     "${before}#include \"${CMAKE_CURRENT_LIST_DIR}/traps.hpp\"\n${after}")
run("a header does not survive the macros of tests/headers/traps.hpp"
    "${COMPILER}" -std=c++20 -fsyntax-only ${STRICT} -Wno-pedantic "${DIR}/traps.cpp")
