# Target `docs`: Doxygen as a linter, every warning is an error. HTML lands in build/docs.
if(NOT DPGATHER_BUILD_DOCS)
  return()
endif()
find_program(DPGATHER_DOXYGEN doxygen)
if(NOT DPGATHER_DOXYGEN)
  message(STATUS "dpgather: target 'docs' is off, doxygen was not found")
  return()
endif()

add_custom_target(
  docs
  COMMAND "${CMAKE_COMMAND}" "-DDOXYGEN=${DPGATHER_DOXYGEN}" "-DSOURCE=${PROJECT_SOURCE_DIR}"
          "-DVERSION=${PROJECT_VERSION}" -P "${PROJECT_SOURCE_DIR}/cmake/docs_lint.cmake"
  COMMENT "Doxygen, every warning is an error"
  VERBATIM)
