# Compiles `source` with the part `tag` broken (or nothing broken: well_formed) and compares with what must happen.
list(TRANSFORM includes PREPEND -isystem OUTPUT_VARIABLE options)
if(NOT tag STREQUAL "well_formed")
  list(APPEND options -DBREAK_${tag})
endif()
execute_process(
  COMMAND ${compiler} -std=c++20 -fsyntax-only -O0 ${options} ${source} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)

if(tag STREQUAL "well_formed")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "the well-formed policy does not compile:\n${output}")
  endif()
  return()
endif()

file(STRINGS ${source} concept REGEX "^// dapt::[A-Za-z]+")
list(GET concept 0 concept)
string(REGEX REPLACE "^// (dapt::[A-Za-z]+).*" "\\1" concept "${concept}")
string(FIND "${output}" "${concept} [${tag}]" position)
if(status EQUAL 0)
  message(FATAL_ERROR "a policy with a broken ${tag} compiles")
elseif(position EQUAL -1)
  message(FATAL_ERROR "the compiler does not say \"${concept} [${tag}]\":\n${output}")
endif()
