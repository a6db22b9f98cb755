# The driver must refuse files whose expectation is not met. Plants one file per kind of mistake and
# looks at what run.cmake answers.
#
#   cmake -DDIR=<scratch> -DCOMPILER=<c++> -DCOMPILER_ID=<id> -P self_test.cmake
cmake_minimum_required(VERSION 3.25)

set(fails [[
#ifndef OK
template <class T> struct trap { static_assert(sizeof(T) == 0, "the rule [a]; the fix"); };
trap<int> x;
#endif
]])
set(control "// positive-control: -DOK\n")
set(expect "// expect: the rule [a]; the fix\n")

function(plant name text answer)
  file(WRITE "${DIR}/${name}.cpp" "${text}")
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DSOURCE=${DIR}/${name}.cpp" "-DCOMPILER=${COMPILER}"
                          "-DCOMPILER_ID=${COMPILER_ID}" "-DINCLUDE=${DIR}" "-DLOG=${DIR}/log.txt"
                          -P "${CMAKE_CURRENT_LIST_DIR}/run.cmake"
                  RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(REGEX REPLACE "[ \n]+" " " said "${said}")
  string(FIND "${said}" "${answer}" at)
  if(answer STREQUAL "" AND NOT result EQUAL 0)
    message(SEND_ERROR "${name} must be accepted, but the driver said: ${said}")
  elseif(NOT answer STREQUAL "" AND (result EQUAL 0 OR at EQUAL -1))
    message(SEND_ERROR "${name} must be refused with '${answer}', but the driver said: ${said}")
  endif()
endfunction()

plant(good "${control}${expect}// expect-count: 1 the rule\n// expect-count: 1\n${fails}" "")
plant(compiles "${control}${expect}int x;\n" "compiles, but must not")
plant(other_error "${control}// expect: another rule\n${fails}" "no diagnostic says another rule")
# The sentence stands in the excerpt of the source, not in the message.
plant(excerpt_only "${control}// expect: sizeof(T) == 0, \"the\n${fails}" "no diagnostic says")
plant(wrong_count "${control}// expect-count: 2 the rule\n${fails}" "expected 2 errors, not 1")
# Every instantiation counts, beyond the number at which a compiler stops by itself.
set(many "template <int N> struct many { static_assert(N < 0, \"again\"); };
#ifndef OK
")
foreach(i RANGE 1 30)
  string(APPEND many "template struct many<${i}>;\n")
endforeach()
plant(many "${control}// expect-count: 30 again\n${many}#endif\n" "")
plant(fails_anyway "${control}${expect}${fails}int y = z;\n"
      "does not compile with its positive control")
plant(no_control "${expect}${fails}" "has no '// positive-control:")
plant(no_expectation "${control}${fails}" "says nothing about the error")
