// A training loop in a program, and what a shared library sees of it. Both are compiled with -fvisibility=hidden: a count of each would leave dropout off in the library.
#include <dapt/core/training_mode.hpp>

#include <cstdio>

bool library_is_training();

int main() {
  bool right = !library_is_training();
  {
    const dapt::TrainingMode training;
    right = right && library_is_training();
  }
  right = right && !library_is_training();
  if (!right) std::puts("the library does not see when the program trains");
  return right ? 0 : 1;
}
