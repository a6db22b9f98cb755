# Sets `headers`, all .hpp below INCLUDE as <dpgather/...>, and `foreign`, every other header that one
# of them includes.
cmake_minimum_required(VERSION 3.25)
file(GLOB_RECURSE headers RELATIVE "${INCLUDE}" "${INCLUDE}/dpgather/*.hpp")
set(foreign "")
foreach(header IN LISTS headers)
  file(STRINGS "${INCLUDE}/${header}" lines REGEX "^ *# *include *<")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^[^<]*<([^>]+)>.*$" "\\1" name "${line}")
    list(APPEND foreign "${name}")
  endforeach()
endforeach()
list(FILTER foreign EXCLUDE REGEX "^dpgather/")
list(REMOVE_DUPLICATES foreign)

# includes_of(<list> <out>): the text of the include lines.
function(includes_of list_name out)
  list(TRANSFORM ${list_name} REPLACE "(.+)" "#include <\\1>\n" OUTPUT_VARIABLE text)
  string(JOIN "" text ${text})
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

# run(<what> <command>...): stops with the output when the command fails.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT result EQUAL 0)
    message("${text}")
    message(FATAL_ERROR "${what}")
  endif()
  set(output "${text}" PARENT_SCOPE)
endfunction()
