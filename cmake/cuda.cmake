# What of CUDA and NCCL our own tests and examples can use. The library target asks for neither.
#
#   DPGATHER_TOOLKIT_INCLUDES  folders with cuda_runtime_api.h and nccl.h, empty where either lacks:
#                              enough for the parts that compile without nvcc
#   DPGATHER_HAS_CUDA          nvcc works and is enabled
#   DPGATHER_HAS_NCCL          and there is an NCCL to link, as NCCL::NCCL
set(DPGATHER_TOOLKIT_INCLUDES "")
set(DPGATHER_HAS_CUDA OFF)
set(DPGATHER_HAS_NCCL OFF)
if(NOT DPGATHER_BUILD_TESTS AND NOT DPGATHER_BUILD_EXAMPLES)
  return()
endif()
list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")

find_program(DPGATHER_NVCC nvcc HINTS $ENV{CUDA_HOME} /usr/local/cuda PATH_SUFFIXES bin)
if(DPGATHER_NVCC)
  get_filename_component(_toolkit "${DPGATHER_NVCC}" REALPATH)
  get_filename_component(_toolkit "${_toolkit}" DIRECTORY)
  get_filename_component(_toolkit "${_toolkit}" DIRECTORY)
endif()
find_path(DPGATHER_CUDA_INCLUDE cuda_runtime_api.h HINTS "${_toolkit}" $ENV{CUDA_HOME} /usr/local/cuda
          PATH_SUFFIXES include targets/x86_64-linux/include)
find_package(NCCL QUIET)
if(DPGATHER_CUDA_INCLUDE AND NCCL_INCLUDE_DIR)
  set(DPGATHER_TOOLKIT_INCLUDES "${DPGATHER_CUDA_INCLUDE}" "${NCCL_INCLUDE_DIR}")
  list(REMOVE_DUPLICATES DPGATHER_TOOLKIT_INCLUDES)
else()
  message(STATUS "dpgather: tests of the NCCL host path are left out, no CUDA or NCCL headers")
endif()
unset(_toolkit)

if(NOT DPGATHER_ENABLE_CUDA)
  return()
endif()
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
find_package(CUDAToolkit REQUIRED)
set(DPGATHER_HAS_CUDA ON)
if(TARGET NCCL::NCCL)
  set(DPGATHER_HAS_NCCL ON)
else()
  message(STATUS "dpgather: no NCCL library, its examples and tests are left out")
endif()
