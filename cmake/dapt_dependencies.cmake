# What a program that includes dapt's headers links. Read by the project itself and by the installed package config.
include("${CMAKE_CURRENT_LIST_DIR}/dapt_libtorch.cmake")
include(CMakeFindDependencyMacro)

dapt_find_libtorch()
find_dependency(Threads)
find_dependency(range-v3)
find_dependency(nlohmann_json)
find_dependency(ICU COMPONENTS uc i18n)

# Debian's sentencepiece has no CMake package.
if(NOT TARGET dapt::sentencepiece)
  find_library(DAPT_SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
  find_path(DAPT_SENTENCEPIECE_INCLUDE sentencepiece_processor.h REQUIRED)
  mark_as_advanced(DAPT_SENTENCEPIECE_LIBRARY DAPT_SENTENCEPIECE_INCLUDE)
  add_library(dapt::sentencepiece INTERFACE IMPORTED GLOBAL)
  target_include_directories(dapt::sentencepiece SYSTEM INTERFACE "${DAPT_SENTENCEPIECE_INCLUDE}")
  target_link_libraries(dapt::sentencepiece INTERFACE "${DAPT_SENTENCEPIECE_LIBRARY}")
endif()

set(DAPT_DEPENDENCIES dapt::libtorch range-v3::range-v3 nlohmann_json::nlohmann_json ICU::uc ICU::i18n dapt::sentencepiece Threads::Threads)
