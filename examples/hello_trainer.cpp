// The smallest program that trains: a toy model, LoRA, AdamW. Exits with 0 if the loss went down.
// Run: hello_trainer
#include <cstdio>

#include <dapt/adapters/lora.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

// [hello]
int main() {
  dapt::testing::ToyLM model;
  auto stream = dapt::testing::toy_batches();
  dapt::Trainer trainer(model, dapt::Lora{.rank = 4}, dapt::AdamW{}, dapt::TrainOptions{.lr = 3e-2, .batch_size = 4, .max_steps = 60});
  const dapt::TrainReport report = trainer.train(stream);
  trainer.merge();
  std::printf("loss %.3f -> %.3f in %lld steps\n", report.first_loss, report.last_loss, static_cast<long long>(report.steps));
  return report.last_loss < report.first_loss ? 0 : 1;
}
// [hello]
