# doctest comes from the system; nothing is downloaded.
find_package(doctest CONFIG QUIET)
if(NOT doctest_FOUND)
  message(FATAL_ERROR "dpgather: the tests need doctest. Install it with\n"
                      "  apt-get update && apt-get install -y --no-install-recommends doctest-dev\n"
                      "or configure with -DDPGATHER_BUILD_TESTS=OFF.")
endif()
