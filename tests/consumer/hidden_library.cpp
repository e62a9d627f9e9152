// What a shared library with an adapter sees of the loop in the program.
#include <dapt/core/training_mode.hpp>

[[gnu::visibility("default")]] bool library_is_training();

bool library_is_training() { return dapt::TrainingMode::is_enabled(); }
