# NCCL: the imported target NCCL::NCCL, NCCL_VERSION, NCCL_INCLUDE_DIR, NCCL_LIBRARY.
#
# NCCL's own package config first, where a version has one. Then NCCL_ROOT (variable or environment),
# NCCL_HOME, the CUDA toolkit, system paths, and the Python wheel nvidia-nccl, which many machines
# have for PyTorch's sake. The library is looked for beside the header first: NCCL's device part
# demands that they fit.
# Installed with dpgather, because many machines have no package config.
include(FindPackageHandleStandardArgs)

if(NOT NCCL_INCLUDE_DIR AND NOT NCCL_LIBRARY)
  find_package(NCCL CONFIG QUIET)
  if(NCCL_FOUND AND TARGET NCCL::NCCL)
    get_target_property(NCCL_INCLUDE_DIR NCCL::NCCL INTERFACE_INCLUDE_DIRECTORIES)
    return()
  endif()
endif()

set(_nccl_hints ${NCCL_ROOT} $ENV{NCCL_ROOT} ${NCCL_HOME} $ENV{NCCL_HOME} $ENV{CUDA_HOME}
    ${CUDAToolkit_ROOT} ${CUDAToolkit_LIBRARY_ROOT} /usr/local/cuda)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${_nccl_hints} PATH_SUFFIXES include)
if(NOT NCCL_INCLUDE_DIR)
  find_program(_nccl_python python3)
  if(_nccl_python)
    execute_process(
      COMMAND "${_nccl_python}" -c "import nvidia.nccl as n; print(list(n.__path__)[0])"
      OUTPUT_VARIABLE _nccl_wheel OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS "${_nccl_wheel}" PATH_SUFFIXES include)
  endif()
  unset(_nccl_python CACHE)
endif()
if(NCCL_INCLUDE_DIR)
  get_filename_component(_nccl_prefix "${NCCL_INCLUDE_DIR}" DIRECTORY)
  # The wheel has libnccl.so.2 only.
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS "${_nccl_prefix}"
               PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib)
  file(STRINGS "${NCCL_INCLUDE_DIR}/nccl.h" _nccl_lines
       REGEX "^#define NCCL_(MAJOR|MINOR|PATCH) +[0-9]+$")
  string(REGEX REPLACE "[^0-9;]" "" _nccl_numbers "${_nccl_lines}")
  list(JOIN _nccl_numbers "." NCCL_VERSION)
endif()

find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
                                  VERSION_VAR NCCL_VERSION)
if(NCCL_FOUND AND NOT TARGET NCCL::NCCL)
  add_library(NCCL::NCCL UNKNOWN IMPORTED)
  set_target_properties(NCCL::NCCL PROPERTIES IMPORTED_LOCATION "${NCCL_LIBRARY}"
                                              INTERFACE_INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}")
endif()
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
unset(_nccl_hints)
unset(_nccl_prefix)
unset(_nccl_lines)
unset(_nccl_numbers)
unset(_nccl_wheel)
