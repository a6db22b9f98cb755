# What is built. Everything is off when another project embeds this one: an embedding engine gets the
# library target and nothing else, not even install rules.
option(DPGATHER_BUILD_TESTS "Build the tests (needs doctest)" ${PROJECT_IS_TOP_LEVEL})
option(DPGATHER_BUILD_EXAMPLES "Build the examples and run them as tests" ${PROJECT_IS_TOP_LEVEL})
option(DPGATHER_BUILD_DOCS "Add the target 'docs' (needs doxygen)" ${PROJECT_IS_TOP_LEVEL})
option(DPGATHER_INSTALL "Add install rules and the package files" ${PROJECT_IS_TOP_LEVEL})
option(DPGATHER_WERROR "Warnings in our own tests and examples are errors" OFF)
option(DPGATHER_ENABLE_CUDA "Use nvcc for tests and examples where it is found" ON)
set(DPGATHER_TEST_TIMEOUT 300 CACHE STRING "Seconds after which a test or example counts as hung")

# A plain `cmake -B build` measures what users run. Not for multi-configuration generators, and not
# when an embedding project decides.
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()
