# leaked_flags finds what a library could add, and nothing else.
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/flags_leak.cmake")

function(expect flags wanted)
  leaked_flags("[{\"file\": \"/x/other.cpp\", \"command\": \"c++ -Wall -c other.cpp\"},
                 {\"file\": \"/x/main.cpp\", \"command\": \"c++ ${flags} -o main.o -c main.cpp\"}]"
               main.cpp found)
  if(NOT found STREQUAL wanted)
    message(SEND_ERROR "'${flags}': expected '${wanted}', not '${found}'")
  endif()
endfunction()

expect("-I/include -isystem /include -std=gnu++20" "")
expect("-std=c++20" "")
expect("-Wall -I/include" "-Wall")
expect("-DNDEBUG -fno-exceptions -std=c++20 -pthread" "-DNDEBUG;-fno-exceptions;-pthread")
expect("-std=c++17" "-std=c++17")
