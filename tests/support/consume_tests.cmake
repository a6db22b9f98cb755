# Tests of the label `consume`: the external project in tests/consume, which cannot be a folder of
# this build because it is a build of its own.
set(_folder "${PROJECT_SOURCE_DIR}/tests/consume")

set(_hows find_package add_subdirectory)
if(DPGATHER_HAS_NCCL)
  list(APPEND _hows nccl)
endif()
foreach(_how IN LISTS _hows)
  add_test(NAME consume.${_how}
           COMMAND "${CMAKE_COMMAND}" -DHOW=${_how} "-DSOURCE=${PROJECT_SOURCE_DIR}"
                   "-DBUILD=${PROJECT_BINARY_DIR}" "-DDIR=${CMAKE_CURRENT_BINARY_DIR}/consume/${_how}"
                   "-DCOMPILER=${CMAKE_CXX_COMPILER}" "-DGENERATOR=${CMAKE_GENERATOR}"
                   -P "${_folder}/run.cmake")
  dpgather_register_test(consume.${_how} LABELS consume)
endforeach()
if(NOT DPGATHER_INSTALL)
  set_tests_properties(consume.find_package PROPERTIES DISABLED ON)
  if(DPGATHER_HAS_NCCL)
    set_tests_properties(consume.nccl PROPERTIES DISABLED ON)
  endif()
endif()

add_test(NAME consume.flags_leak_self_test
         COMMAND "${CMAKE_COMMAND}" -P "${_folder}/flags_leak_self_test.cmake")
dpgather_register_test(consume.flags_leak_self_test LABELS consume)
