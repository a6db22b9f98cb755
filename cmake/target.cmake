# The library target. It asks for C++20 and adds the include directory; it never imposes flags.
include(cmake/cuda_cxx20.cmake)

file(GLOB_RECURSE _headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/dpgather/*.hpp"
     "${PROJECT_SOURCE_DIR}/include/dpgather/*.cuh")

add_library(dpgather INTERFACE)
add_library(dpgather::dpgather ALIAS dpgather)
target_compile_features(dpgather INTERFACE cxx_std_20)
# A header file set gives the include directory of the source tree and of the installed package alike.
target_sources(dpgather INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                                  FILES ${_headers})
dpgather_cuda_cxx20(dpgather)
unset(_headers)
