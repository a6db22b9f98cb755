# Runs Doxygen and fails on every warning. Beyond what the Doxyfile says, free functions must have a
# comment, and types whose members have some; members need none where their type's says enough.
#
#   cmake -DDOXYGEN=<program> -DSOURCE=<repository> -DVERSION=<x.y.z> -P docs_lint.cmake
cmake_minimum_required(VERSION 3.25)

set(out "${SOURCE}/build/docs")
set(log "${out}/warnings.txt")
file(MAKE_DIRECTORY "${out}")
file(READ "${SOURCE}/Doxyfile" config)
file(WRITE "${out}/Doxyfile.lint" "${config}
WARN_IF_UNDOCUMENTED = YES
WARN_AS_ERROR = NO
WARN_LOGFILE = build/docs/warnings.txt
")
execute_process(COMMAND "${CMAKE_COMMAND}" -E env "DPGATHER_VERSION=${VERSION}" "${DOXYGEN}"
                        "${out}/Doxyfile.lint"
                WORKING_DIRECTORY "${SOURCE}" RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "doxygen fails")
endif()

file(STRINGS "${log}" warnings)
list(FILTER warnings EXCLUDE REGEX
     "\\((variable|typedef|enumvalue|enumeration|friend|macro definition)\\) of .* is not documented")
list(FILTER warnings EXCLUDE REGEX "\\(function\\) of (class|struct|union) .* is not documented")
# A specialization is described where its template is.
list(FILTER warnings EXCLUDE REGEX "Compound [^ ]*< .* > is not documented")
if(warnings)
  list(JOIN warnings "\n" text)
  message("${text}")
  list(LENGTH warnings n)
  message(FATAL_ERROR "doxygen: ${n} lines of warnings")
endif()
message("pages: ${out}/html/index.html")
