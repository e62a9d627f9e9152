// The one main of all test executables. LibTorch is kept to one thread, so that recorded values do not depend on the machine; products are those of the program.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include <ATen/Parallel.h>

#include <dapt/core/product_choice.hpp>

int main(int argc, char** argv) {
  dapt::make_products_independent_of_the_batch();
  at::set_num_threads(1);
  return Catch::Session().run(argc, argv);
}
