# Builds and runs the project in this folder from outside the library's build.
#
#   cmake -DHOW=<find_package|add_subdirectory|nccl> -DSOURCE=<repository> -DBUILD=<library's build>
#         -DDIR=<scratch> -DCOMPILER=<c++> -DGENERATOR=<name> -P run.cmake
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/flags_leak.cmake")

# What the environment adds would look like a leak.
unset(ENV{CXXFLAGS})
unset(ENV{CPPFLAGS})
unset(ENV{LDFLAGS})

function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT result EQUAL 0)
    message("${text}")
    message(FATAL_ERROR "${HOW}: ${what}")
  endif()
endfunction()

file(REMOVE_RECURSE "${DIR}")
if(HOW MATCHES "^(find_package|nccl)$")
  # Moved after the install: a package must not remember where it was installed to.
  run("install fails" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${DIR}/prefix")
  file(RENAME "${DIR}/prefix" "${DIR}/moved")
  set(library "-DCMAKE_PREFIX_PATH=${DIR}/moved")
else()
  set(library "-DDPGATHER_SOURCE_DIR=${SOURCE}")
endif()

if(HOW STREQUAL "nccl")
  # CMake's own checks of nvcc want no flags; an engine brings its architecture.
  list(APPEND library -DDPGATHER_CONSUME_NCCL=ON -DCMAKE_CUDA_ARCHITECTURES=90)
endif()
run("configure fails" "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${DIR}/build"
    -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=None ${library}
    --no-warn-unused-cli)
run("build fails" "${CMAKE_COMMAND}" --build "${DIR}/build")
if(HOW STREQUAL "nccl")
  run("the engine fails" "${DIR}/build/engine") # it refuses before it needs a GPU
  return()
endif()
run("the consumer fails" "${DIR}/build/consumer")
run("two modules in one process fail" "${DIR}/build/loader" "${DIR}/build/libmodule_one.so"
    "${DIR}/build/libmodule_two.so")

file(READ "${DIR}/build/compile_commands.json" commands)
leaked_flags("${commands}" main.cpp leaked)
if(leaked)
  message(FATAL_ERROR "${HOW}: the library adds flags to its consumers: ${leaked}")
endif()
