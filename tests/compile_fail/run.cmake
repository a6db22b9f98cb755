# Checks one file that must not compile.
#
#   cmake -DSOURCE=<file> -DCOMPILER=<c++> -DCOMPILER_ID=<GNU|Clang> -DINCLUDE=<dir> -DLOG=<scratch>
#         -P run.cmake
#
# The file says in comments what is expected:
#   // expect: <sentence>               appears in a diagnostic; may be repeated
#   // expect-count: <N> <sentence>     in exactly N errors; without a sentence: N errors in all
#   // flags: <flag>...                 extra flags
#   // positive-control: <flag>...      with these flags added the same file compiles, which proves
#                                       that it fails for the stated reason only; required
#   // only: gcc | clang                skipped with the other compiler
cmake_minimum_required(VERSION 3.25)

get_filename_component(name "${SOURCE}" NAME)
# Brackets and semicolons mean something in CMake lists; sources and diagnostics are compared with
# both replaced.
function(plain text out)
  string(REPLACE ";" "<semicolon>" text "${text}")
  string(REPLACE "[" "<(" text "${text}")
  string(REPLACE "]" ")>" text "${text}")
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

# All values of `// <key>: value` as a list.
file(READ "${SOURCE}" source_text)
plain("${source_text}" source_text)
function(directive key out)
  string(REGEX MATCHALL "\n// ${key}:[^\n]*" lines "\n${source_text}")
  list(TRANSFORM lines REPLACE "^\n// ${key}: *" "")
  list(TRANSFORM lines STRIP)
  set(${out} "${lines}" PARENT_SCOPE)
endfunction()

# message(FATAL_ERROR) would break the compiler's lines, so those are printed before it.
macro(refuse what)
  string(SUBSTRING "${text}" 0 4000 head)
  message("${head}")
  message(FATAL_ERROR "${name}: ${what}")
endmacro()

directive(expect expected)
directive(expect-count counted)
directive(flags flags)
directive(positive-control control)
directive(only only)

if(NOT expected AND NOT counted)
  message(FATAL_ERROR "${name}: says nothing about the error it expects; add '// expect: <sentence>'")
endif()
if(NOT control)
  message(FATAL_ERROR "${name}: has no '// positive-control: <flag>' with which it compiles")
endif()
if((only STREQUAL "gcc" AND NOT COMPILER_ID STREQUAL "GNU")
   OR (only STREQUAL "clang" AND NOT COMPILER_ID MATCHES "Clang"))
  message("SKIPPED: ${name} is for ${only} only")
  return()
endif()

# Source excerpts are off: an excerpt would contain the sentence without being the diagnostic. All
# errors count, however many; where templates were instantiated from does not matter.
set(diagnostics_flags -ftemplate-backtrace-limit=1)
if(COMPILER_ID STREQUAL "GNU")
  list(APPEND diagnostics_flags -fno-diagnostics-show-caret)
else()
  list(APPEND diagnostics_flags -fno-caret-diagnostics -ferror-limit=0)
endif()
function(compile out_result out_text)
  list(JOIN ARGN " " extra)
  separate_arguments(extra UNIX_COMMAND "${extra}")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env LC_ALL=C "${COMPILER}" -std=c++20 -fsyntax-only
            ${diagnostics_flags} "-I${INCLUDE}" ${extra} "${SOURCE}"
    RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  set(${out_result} "${result}" PARENT_SCOPE)
  set(${out_text} "${text}" PARENT_SCOPE)
endfunction()

compile(result text ${flags})
if(result EQUAL 0)
  refuse("compiles, but must not")
endif()

# Line by line through a file: a regular expression over one long text takes minutes.
plain("${text}" text_plain)
file(WRITE "${LOG}" "${text_plain}")
file(STRINGS "${LOG}" diagnostics REGEX "(error|note): ")
file(STRINGS "${LOG}" errors REGEX "error: ")

# How many entries of the list hold the sentence.
function(count_with list_name sentence out)
  set(n 0)
  foreach(line IN LISTS ${list_name})
    string(FIND "${line}" "${sentence}" at)
    if(NOT at EQUAL -1)
      math(EXPR n "${n} + 1")
    endif()
  endforeach()
  set(${out} ${n} PARENT_SCOPE)
endfunction()

foreach(sentence IN LISTS expected)
  count_with(diagnostics "${sentence}" n)
  if(n EQUAL 0)
    refuse("no diagnostic says\n  ${sentence}")
  endif()
endforeach()
foreach(rule IN LISTS counted)
  if(NOT rule MATCHES "^([0-9]+) *(.*)$")
    message(FATAL_ERROR "${name}: '// expect-count: ${rule}' needs a number first")
  endif()
  set(wanted "${CMAKE_MATCH_1}")
  set(sentence "${CMAKE_MATCH_2}")
  if(sentence STREQUAL "")
    list(LENGTH errors n)
  else()
    count_with(errors "${sentence}" n)
  endif()
  if(NOT n EQUAL wanted)
    refuse("expected ${wanted} errors, not ${n}, that say\n  '${sentence}'")
  endif()
endforeach()

compile(result text ${flags} ${control})
if(NOT result EQUAL 0)
  refuse("does not compile with its positive control, ${control}")
endif()
