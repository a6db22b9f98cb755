# Warnings for our own tests and examples. Never linked to by the library, so no consumer sees them.
set(DPGATHER_WARNING_FLAGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)

add_library(dpgather_warnings INTERFACE)
target_compile_options(
  dpgather_warnings
  INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${DPGATHER_WARNING_FLAGS};$<$<BOOL:${DPGATHER_WERROR}>:-Werror>>")
