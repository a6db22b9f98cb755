# dpgather_cuda_cxx20(<target>): CUDA units that use <target> are compiled as C++20.
#
# CMake 3.25.1 and older cannot ask nvcc for C++20: `cuda_std_20` is a hard error there and
# CMAKE_CUDA_STANDARD 20 silently adds nothing, so those versions get the plain flag. Installed with
# the package, because the CMake that counts is the consumer's.
function(dpgather_cuda_cxx20 target)
  if(CMAKE_VERSION VERSION_LESS 3.26)
    # BUILD_INTERFACE keeps this machine's answer out of the exported target.
    target_compile_options(
      ${target} INTERFACE "$<BUILD_INTERFACE:$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>>")
  else()
    target_compile_features(${target} INTERFACE "$<BUILD_INTERFACE:cuda_std_20>")
  endif()
endfunction()
