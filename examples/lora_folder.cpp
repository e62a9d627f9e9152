// LoRA's variants on a toy model: train, write PEFT's folder, go on from it, merge. Exits with 0 where the second run begins at the loss that the first one reached
// and the merged model has the loss of the adapted one.
#include <cmath>
#include <cstdio>
#include <filesystem>

#include <dapt/io/peft_adapter.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

namespace {

double loss(dapt::testing::ToyLM& model) {
  const c10::NoGradGuard no_grad;
  auto stream = dapt::testing::toy_batches({.rows = 32});
  return model.loss(*stream.begin()).sum.item<double>();
}

}  // namespace

int main() {
  const auto folder = std::filesystem::temp_directory_path() / "dapt_lora_folder";
  const dapt::TrainOptions options{.lr = 1e-2, .batch_size = 4, .max_steps = 60};
  auto stream = dapt::testing::toy_batches();

  dapt::testing::ToyLM model;
  // [train]
  const dapt::Lora lora{.rank = 4, .alpha = 8, .use_rslora = true, .use_dora = true, .modules_to_save = {"embed_tokens"},
                        .lr_ratio = 4, .modules_to_save_lr_factor = 0.1};
  dapt::Trainer trainer(model, lora, dapt::AdamW{}, options);
  trainer.train(stream);
  dapt::save_peft_adapter(trainer.adapter(), trainer.adapter_state(), folder, "path/of/the/base");
  // [train]

  dapt::testing::ToyLM base;
  // [continue]
  dapt::PeftAdapter adapter(folder);  // its options and its values
  adapter.lora.lr_ratio = 4;          // the folder keeps everything but the two factors of the learning rate
  dapt::Trainer further(base, adapter, dapt::AdamW{}, options);
  // [continue]
  const double reached = loss(model), begun = loss(base);
  further.train(stream);
  const double adapted = loss(base);

  // [merge]
  const dapt::MergeReport report = further.adapter().lora.merge(further.adapter_state(), base, /*keep_base=*/false);
  std::puts(report.text().c_str());
  // [merge]
  std::printf("loss %.4f, begun again at %.4f, then %.4f, merged %.4f\n", reached, begun, adapted, loss(base));
  std::filesystem::remove_all(folder);
  return begun == reached && adapted < begun && std::abs(loss(base) - adapted) < 1e-3 * adapted ? 0 : 1;
}
