# Searches one model.
#
#   cmake -DMODEL=<file.pml> -DMACROS="<name>[=<value>]..." -DEXPECT=<ok | property>
#         -DEFFORT=<small | large> -DSPIN=<spin> -DCXX=<c++> -DDIR=<scratch> -P run.cmake
#
# `ok`: no property is violated anywhere, and the search saw every state. A property's name: the
# search finds that one violated. Properties are the names in PROPERTY(...), the ltl formula, and
# `no_hang`: in no state do all processes wait for ever.
#
#   cmake -DMODEL=<file.cc> -DEXPECT=built -DPROGRAM=<file> -DCXX=<c++> -P run.cmake
#   cmake -DPROGRAM=<file> -DVARIANT=<name> -DEXPECT=<ok | what relacy calls the error> -P run.cmake
cmake_minimum_required(VERSION 3.25)

# The text first: message(FATAL_ERROR) would break its lines.
macro(refuse what)
  string(SUBSTRING "${text}" 0 4000 head)
  message("${head}")
  message(FATAL_ERROR "${what}")
endmacro()
macro(execute limit)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY "${DIR}" TIMEOUT ${limit}
                  RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
endmacro()

if(EXPECT STREQUAL "built")
  execute(250 "${CXX}" -std=c++20 -O1 -Wall -Wextra -o "${PROGRAM}" "${MODEL}")
  if(NOT result EQUAL 0)
    refuse("does not compile")
  endif()
  return()
elseif(DEFINED PROGRAM)
  execute(60 "${PROGRAM}" ${VARIANT})
  if(EXPECT STREQUAL "ok" AND NOT result EQUAL 0)
    refuse("${VARIANT} is wrong")
  elseif(NOT EXPECT STREQUAL "ok" AND NOT (result EQUAL 1 AND text MATCHES "\n${EXPECT} \\("))
    refuse("${VARIANT}: relacy does not find '${EXPECT}', so it would not find it elsewhere either")
  endif()
  return()
endif()

file(REMOVE_RECURSE "${DIR}")
file(MAKE_DIRECTORY "${DIR}")
separate_arguments(macros UNIX_COMMAND "${MACROS}")
set(liveness OFF)
if("LIVENESS" IN_LIST macros)
  set(liveness ON)
elseif(NOT EXPECT MATCHES "^(ok|no_hang)$")
  list(APPEND macros LOOK_FOR=${EXPECT})
endif()
list(TRANSFORM macros PREPEND -D)
execute(60 "${SPIN}" ${macros} -a "${MODEL}")
if(NOT result EQUAL 0 OR NOT EXISTS "${DIR}/pan.c")
  refuse("spin does not accept the model")
endif()

# Most searches take less time than an optimized build of their program; -O2 pays for none of them.
set(flags -w -DMEMLIM=1900) # -w: spin's C is not ours
if(EFFORT STREQUAL "large")
  list(APPEND flags -O1)
  set(arguments -m2600000)
else()
  list(APPEND flags -O0)
  set(arguments -m500000)
endif()
# -w: few buckets to begin with, pan adds more when it needs them.
list(APPEND arguments -w18)
if(liveness)
  list(APPEND flags -DNFAIR=3) # room for as many processes
  list(APPEND arguments -a -f)
else()
  list(APPEND flags -DSAFETY)
  if(NOT EXPECT MATCHES "^(ok|no_hang)$")
    list(APPEND arguments -E) # a hang is not what is looked for
  endif()
endif()
# pan.c is C; taken by the C++ driver, so that the project needs no second language.
execute(100 "${CXX}" -x c ${flags} -o pan pan.c)
if(NOT result EQUAL 0)
  refuse("pan.c does not compile")
endif()
execute(120 ./pan ${arguments})

set(figures "")
foreach(pattern IN ITEMS "[0-9.e+]+ states, stored" "[0-9.]+.total actual memory usage"
                         "elapsed time [0-9.e+-]+ seconds" "depth reached [0-9]+")
  if(text MATCHES "${pattern}")
    list(APPEND figures "${CMAKE_MATCH_0}")
  endif()
endforeach()
list(JOIN figures ", " figures)
string(REPLACE "\t" " MB " figures "${figures}")
message("${MODEL} ${MACROS}\n${figures}")

list(JOIN macros " " macros)
if(NOT text MATCHES "errors: ([0-9]+)")
  refuse("pan did not finish: ${result}")
elseif(EXPECT STREQUAL "ok")
  if(NOT CMAKE_MATCH_1 EQUAL 0)
    message("Replay with: cd ${DIR} && spin ${macros} -p -k *.trail ${MODEL}")
    refuse("a property is violated")
  elseif(text MATCHES "not completed|too small|truncated|Warning|MEMLIM" OR NOT result EQUAL 0)
    refuse("the search did not see every state")
  endif()
else()
  set(violation "pan:1: assertion violated [^\n]*\\(${EXPECT}!=${EXPECT}\\)\\)")
  if(EXPECT STREQUAL "no_hang")
    set(violation "pan:1: invalid end state")
  elseif(liveness)
    set(violation "pan:1: acceptance cycle.*never claim[^\n]*\\(${EXPECT}\\)")
  endif()
  if(NOT text MATCHES "${violation}")
    refuse("${EXPECT} is not violated, though the model is wrong on purpose")
  endif()
endif()
