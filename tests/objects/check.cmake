# Compiles unit.cu for one policy and compares what is in the object file with what the policy needs:
# the jobs that have a kernel, and the collectives of NCCL that are called.
#
#   cmake -DNVCC=<nvcc> -DINCLUDE=<dir> -DTOOLKIT=<include dirs> -DPOLICY=<name> -DON=<host|nccl|peer>
#         -DKERNELS=<a,b> -DCOLLECTIVES=<a,b> -DDIR=<scratch> -P check.cmake
cmake_minimum_required(VERSION 3.25)

set(flags "-I${INCLUDE}")
if(ON STREQUAL "host")
  list(APPEND flags -DON_HOST)
elseif(ON STREQUAL "peer")
  list(APPEND flags -DON_PEER)
endif()
if(NOT ON STREQUAL "peer") # it has to do without NCCL's header
  foreach(folder IN LISTS TOOLKIT)
    list(APPEND flags -isystem "${folder}")
  endforeach()
endif()
file(MAKE_DIRECTORY "${DIR}")
set(object "${DIR}/${POLICY}_${ON}.o")
execute_process(COMMAND "${NVCC}" -std=c++20 -arch=sm_90 -O1 -Xcompiler=-O1 ${flags} "-DPOLICY=${POLICY}"
                        -c "${CMAKE_CURRENT_LIST_DIR}/unit.cu" -o "${object}"
                RESULT_VARIABLE result ERROR_VARIABLE text)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${POLICY} on ${ON} does not compile\n${text}")
endif()
execute_process(COMMAND nm -C "${object}" RESULT_VARIABLE result OUTPUT_VARIABLE symbols)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "nm fails")
endif()

# expect(<what> <found> <wanted, with commas>)
function(expect what found wanted)
  string(REPLACE "," ";" wanted "${wanted}")
  list(REMOVE_DUPLICATES found)
  list(SORT found)
  list(SORT wanted)
  if(NOT "${found}" STREQUAL "${wanted}")
    message(FATAL_ERROR "${POLICY} on ${ON}: ${what}: has '${found}', needs '${wanted}'")
  endif()
  message("${POLICY} on ${ON}: ${what}: ${found}")
endfunction()

# Demangled: "t void dpgather::v0::detail::run_job<dpgather::v0::take_rows, 256>(...)".
string(REGEX MATCHALL "run_job<dpgather::v0::[a-z_]+" kernels "${symbols}")
list(TRANSFORM kernels REPLACE "run_job<dpgather::v0::" "")
# "t void dpgather::v0::detail::run_peer_job<dpgather::v0::peer_combine<...bf16_sum, 2>, ...>(...)".
string(REGEX MATCHALL "run_peer_job<dpgather::v0::peer_[a-z]+<dpgather::v0::[a-z0-9_:]+, [0-9]+>" peer_kernels "${symbols}")
list(TRANSFORM peer_kernels REPLACE "run_peer_job<dpgather::v0::(peer_[a-z]+)<dpgather::v0::(detail::)?([a-z0-9_:]+), [0-9]+>" "\\1<\\3>")
list(APPEND kernels ${peer_kernels})
expect("kernels" "${kernels}" "${KERNELS}")

string(REGEX MATCHALL " U nccl(AllGather|AllReduce|ReduceScatter|Broadcast|Reduce)\n" calls "${symbols}")
list(TRANSFORM calls REPLACE " U nccl([A-Za-z]+)\n" "\\1")
expect("collectives" "${calls}" "${COLLECTIVES}")

if(ON STREQUAL "peer" AND symbols MATCHES " U nccl[A-Z]")
  message(FATAL_ERROR "${POLICY} on peer calls NCCL")
endif()
if(ON STREQUAL "host" AND symbols MATCHES " U (nccl|cuda)([A-Za-z_]*)")
  # nvcc's own registration of (no) kernels aside.
  string(REGEX MATCHALL " U (nccl|cuda[A-Z])[A-Za-z_]*" foreign "${symbols}")
  if(foreign)
    message(FATAL_ERROR "${POLICY} on host calls ${foreign}")
  endif()
endif()
