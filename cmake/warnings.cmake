# Warnings for our own tests and examples. Never linked to by the library, so no consumer sees them.
set(DPGATHER_WARNING_FLAGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)

add_library(dpgather_warnings INTERFACE)
# nvcc passes -Wpedantic on to a compiler that then warns of nvcc's own line markers.
set(DPGATHER_CUDA_WARNING_FLAGS -Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow)
target_compile_options(
  dpgather_warnings
  INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${DPGATHER_WARNING_FLAGS};$<$<BOOL:${DPGATHER_WERROR}>:-Werror>>"
            "$<$<COMPILE_LANGUAGE:CUDA>:${DPGATHER_CUDA_WARNING_FLAGS};$<$<BOOL:${DPGATHER_WERROR}>:-Werror=all-warnings>>")
