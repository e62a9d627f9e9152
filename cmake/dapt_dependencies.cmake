# What a program that includes dapt's headers links. Read by the project itself and by the installed package config, where a missing
# package must make find_package(dapt) fail instead of stopping the caller's configuration.
include("${CMAKE_CURRENT_LIST_DIR}/dapt_libtorch.cmake")
include(CMakeFindDependencyMacro)

macro(_dapt_find_package)
  if(CMAKE_FIND_PACKAGE_NAME STREQUAL "dapt")
    find_dependency(${ARGV})
  else()
    find_package(${ARGV} REQUIRED)
  endif()
endmacro()

# Without versions: range-v3's package accepts only the very version that is asked for.
_dapt_find_package(Threads)
_dapt_find_package(range-v3)
_dapt_find_package(nlohmann_json)
_dapt_find_package(ICU COMPONENTS uc i18n)
_dapt_find_package(ZLIB)
_dapt_find_package(zstd)

dapt_find_libtorch(_dapt_problem)
# Debian's sentencepiece has no CMake package.
if(NOT TARGET dapt::sentencepiece)
  find_library(DAPT_SENTENCEPIECE_LIBRARY sentencepiece)
  find_path(DAPT_SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
  mark_as_advanced(DAPT_SENTENCEPIECE_LIBRARY DAPT_SENTENCEPIECE_INCLUDE)
  if(DAPT_SENTENCEPIECE_LIBRARY AND DAPT_SENTENCEPIECE_INCLUDE)
    add_library(dapt::sentencepiece INTERFACE IMPORTED GLOBAL)
    target_include_directories(dapt::sentencepiece SYSTEM INTERFACE "${DAPT_SENTENCEPIECE_INCLUDE}")
    target_link_libraries(dapt::sentencepiece INTERFACE "${DAPT_SENTENCEPIECE_LIBRARY}")
  else()
    string(APPEND _dapt_problem "sentencepiece was not found: install libsentencepiece-dev.")
  endif()
endif()

if(_dapt_problem)
  if(CMAKE_FIND_PACKAGE_NAME STREQUAL "dapt")
    set(dapt_FOUND FALSE)
    set(dapt_NOT_FOUND_MESSAGE "${_dapt_problem}")
    return()
  endif()
  message(FATAL_ERROR "dapt: ${_dapt_problem}")
endif()

set(DAPT_DEPENDENCIES dapt::libtorch range-v3::range-v3 nlohmann_json::nlohmann_json ICU::uc ICU::i18n ZLIB::ZLIB zstd::libzstd_shared dapt::sentencepiece Threads::Threads)
