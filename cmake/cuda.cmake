# CUDA is used when nvcc works and there is something to compile with it; the host part never needs
# it. Sets DPGATHER_HAS_CUDA.
set(DPGATHER_HAS_CUDA OFF)
if(NOT DPGATHER_ENABLE_CUDA OR NOT (DPGATHER_BUILD_TESTS OR DPGATHER_BUILD_EXAMPLES))
  return()
endif()

# Detecting nvcc costs seconds, so it waits until there is a file for it.
file(GLOB_RECURSE _device_files CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/include/dpgather/*.cuh" "${PROJECT_SOURCE_DIR}/tests/*.cu"
     "${PROJECT_SOURCE_DIR}/examples/*.cu")
list(FILTER _device_files EXCLUDE REGEX "/tests/support/")
if(NOT _device_files)
  message(STATUS "dpgather: CUDA is not used, there is no .cuh or .cu file")
  return()
endif()
unset(_device_files)

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "dpgather: no working nvcc, device headers and tests are left out")
  return()
endif()

# Unset architectures would mean sm_75. Presets name their own; this is for a plain configure.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "GPU architectures of our own binaries")
endif()
enable_language(CUDA)
set(DPGATHER_HAS_CUDA ON)
