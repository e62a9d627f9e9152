# How the project's own programs are compiled; nothing of this reaches users of dapt::dapt.
option(DAPT_WERROR "Treat warnings in the project's own code as errors" OFF)
set(DAPT_SANITIZERS "" CACHE STRING "Value of -fsanitize for the project's own programs, e.g. address,undefined")

find_program(DAPT_CCACHE ccache)
mark_as_advanced(DAPT_CCACHE)
if(PROJECT_IS_TOP_LEVEL AND DAPT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without these ccache gives up on translation units that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${DAPT_CCACHE})
endif()

find_path(DAPT_GLOO_INCLUDE gloo/context.h)
mark_as_advanced(DAPT_GLOO_INCLUDE)
if(NOT DAPT_GLOO_INCLUDE)
  message(FATAL_ERROR "dapt: Gloo's headers were not found, which the program and the tests need for several processes: install libgloo-dev.")
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
add_library(dapt_development INTERFACE)
# LibTorch's headers then include the operators that they use and not all there are: a quicker build, and one that dapt forgot is missed.
target_compile_definitions(dapt_development INTERFACE AT_PER_OPERATOR_HEADERS)
target_compile_options(dapt_development INTERFACE -Wall -Wextra $<$<BOOL:${DAPT_WERROR}>:-Werror>)
if(DAPT_CUDA)
  target_compile_definitions(dapt_development INTERFACE DAPT_CUDA)  # for programs; dapt's headers do not look at it
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # It takes the undefined operand of its own AVX-512 intrinsics for an uninitialised variable (GCC bug 105593).
  target_compile_options(dapt_development INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
if(DAPT_SANITIZERS)
  target_compile_options(dapt_development INTERFACE -fsanitize=${DAPT_SANITIZERS} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(dapt_development INTERFACE -fsanitize=${DAPT_SANITIZERS})
endif()

# dapt_add_program(name source...): an executable on dapt::dapt with the project's warnings and sanitizers. Its sources are compiled together, up to
# eight at a time: each alone would compile the same headers and the same kernels again. So names in their unnamed namespaces must differ.
function(dapt_add_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE dapt::dapt dapt_development $<TARGET_NAME_IF_EXISTS:dapt_cuda_kernels>)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ON RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()
