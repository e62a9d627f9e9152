# How the project's own programs are compiled; nothing of this reaches users of dapt::dapt.
find_program(DAPT_CCACHE ccache)
mark_as_advanced(DAPT_CCACHE)
if(PROJECT_IS_TOP_LEVEL AND DAPT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # pch_defines and time_macros: without them ccache gives up on translation units that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${DAPT_CCACHE})
endif()

option(DAPT_WERROR "Treat warnings in the project's own code as errors" OFF)
set(DAPT_SANITIZERS "" CACHE STRING "Value of -fsanitize for the project's own programs, e.g. address,undefined")

# dapt_add_program(name source...): an executable on dapt::dapt with the project's warnings.
add_library(dapt_development INTERFACE)
target_compile_options(dapt_development INTERFACE -Wall -Wextra $<$<BOOL:${DAPT_WERROR}>:-Werror>)
if(DAPT_SANITIZERS)
  target_compile_options(dapt_development INTERFACE -fsanitize=${DAPT_SANITIZERS} -fno-omit-frame-pointer)
  target_link_options(dapt_development INTERFACE -fsanitize=${DAPT_SANITIZERS})
endif()

function(dapt_add_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE dapt::dapt dapt_development)
endfunction()
