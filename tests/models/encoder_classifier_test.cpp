#include <dapt/models/encoder_classifier.hpp>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <ATen/ops/cat.h>

#include <dapt/data/scorers/classifier_scorer.hpp>
#include <dapt/io/hf_classifier.hpp>
#include <dapt/text/hf_tokenizer.hpp>

#include "support/paths.hpp"

using Catch::Contains;
using dapt::EncoderClassifier;
using dapt::EncoderConfig;
using dapt::Tensor;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

using Rows = std::vector<std::vector<std::int32_t>>;

const std::vector<std::string> families = {"bert", "roberta", "xlm-roberta", "luke"};

fs::path family_folder(const std::string& family) { return dapt::testing_support::recorded("encoders") / family; }
json family_json(const std::string& family, const char* file) { return json::parse(dapt::testing_support::read_bytes(family_folder(family) / file)); }

struct Reference {
  explicit Reference(const std::string& family)
      : values(family_json(family, "expected.json")), ids(values["ids"].get<Rows>()), logits(values["logits"].get<std::vector<std::vector<double>>>()) {}
  json values;
  Rows ids;
  std::vector<std::vector<double>> logits;
};

double off_by(const Tensor& found, const std::vector<std::vector<double>>& expected) {
  REQUIRE(found.scalar_type() == at::kFloat);
  REQUIRE(found.sizes() == at::IntArrayRef({std::ssize(expected), std::ssize(expected[0])}));
  double largest = 0;
  for (std::int64_t row = 0; row < found.size(0); ++row)
    for (std::int64_t label = 0; label < found.size(1); ++label) largest = std::max(largest, std::abs(found[row][label].item<double>() - expected[row][label]));
  return largest;
}

json small_config(const std::string& family) { return family_json(family, "config.json"); }

/// The message with which config.json is refused after `change`.
std::string refusal(const std::string& family, const json& change) {
  json config = small_config(family);
  config.merge_patch(change);
  try {
    EncoderConfig::from_json(config);
  } catch (const dapt::Error& error) {
    return error.what();
  }
  return "accepted";
}

/// A folder with the family's weights after `change(name -> tensor)`.
template <class Change>
void write_changed(const fs::path& folder, const std::string& family, const Change& change) {
  std::map<std::string, Tensor> tensors;
  const dapt::SafetensorsFile file(family_folder(family) / "model.safetensors");
  for (const auto& name : file.names()) tensors[name] = file.tensor(name);
  change(tensors);
  dapt::NamedParameters parameters;
  for (const auto& [name, tensor] : tensors) parameters.push_back({name, tensor});
  dapt::write_safetensors(folder / "model.safetensors", parameters);
  fs::copy_file(family_folder(family) / "config.json", folder / "config.json", fs::copy_options::overwrite_existing);
}

}  // namespace

TEST_CASE("BERT, RoBERTa, XLM-RoBERTa and LUKE classifiers score as transformers does, line by line and in one padded batch") {
  for (const auto& family : families) {
    CAPTURE(family);
    const Reference reference(family);
    const EncoderClassifier model = dapt::load_encoder_classifier(family_folder(family), at::kFloat);
    REQUIRE(model.max_length() == reference.values["max_length"].get<std::int64_t>());
    std::vector<Tensor> alone;
    for (const auto& row : reference.ids) alone.push_back(model.logits(std::span(&row, 1)));
    const Tensor one_by_one = at::cat(alone), together = model.logits(reference.ids);
    REQUIRE(off_by(one_by_one, reference.logits) < 3e-6);
    REQUIRE(off_by(together, reference.logits) < 3e-6);
    REQUIRE((one_by_one - together).abs().max().item<double>() < 2e-6);
  }
}

TEST_CASE("A page of lines has the mean of what transformers gives its lines, whatever the batches") {
  for (const auto& family : families) {
    CAPTURE(family);
    const Reference reference(family);
    const EncoderClassifier model = dapt::load_encoder_classifier(family_folder(family), at::kFloat);
    const auto tokenizer = dapt::HfTokenizer::from_file(dapt::testing_support::recorded("text") / (reference.values["tokenizer"].get<std::string>() + ".tokenizer.json"));
    const std::int64_t label = model.labels() - 1;
    const auto lines = reference.values["lines"].get<std::vector<std::string>>();
    std::string text;
    double sum = 0;
    for (std::size_t i = 1; i < lines.size(); ++i) {
      text += lines[i] + "\n";
      sum += reference.logits[i][label];
    }
    const std::vector<dapt::Page> pages = {{"w", 1, text, {}}, {"w", 2, lines.back(), {}}, {"w", 3, lines[0], {}}};
    const std::vector<double> expected = {sum / static_cast<double>(lines.size() - 1), reference.logits.back()[label], reference.logits[0][label]};
    for (const std::int64_t batch_tokens : {1, 100, 4096}) {
      dapt::LineSummary summary;
      const auto scores = dapt::ClassifierScorer(model, tokenizer, {.label = label, .batch_tokens = batch_tokens}, &summary).score(pages);
      for (std::size_t i = 0; i < pages.size(); ++i) REQUIRE(scores[i] == Approx(expected[i]).margin(3e-6));
      REQUIRE(summary.lines == std::ssize(lines) + 1);
      REQUIRE(summary.cut >= 3);  // the last of page 1, page 2, and one or more before them
    }
  }
}

TEST_CASE("Padding inside a text is not counted by the families that count from padding") {
  const EncoderClassifier model = dapt::load_encoder_classifier(family_folder("xlm-roberta"), at::kFloat);
  const Rows with = {{0, 9, 1, 8, 2}}, moved = {{0, 1, 9, 8, 2}};
  // As if it had position 1, the others 2, 3, 4, 5: attention does not know the order otherwise.
  REQUIRE((model.logits(with) - model.logits(moved)).abs().max().item<double>() < 1e-6);
  const Rows other = {{0, 8, 9, 1, 2}};
  REQUIRE((model.logits(with) - model.logits(other)).abs().max().item<double>() > 1e-4);
}

TEST_CASE("Rows that no classifier can score are refused") {
  const EncoderClassifier model = dapt::load_encoder_classifier(family_folder("bert"), at::kFloat);
  REQUIRE_THROWS_WITH(model.logits(Rows{}), Contains("no rows"));
  REQUIRE_THROWS_WITH(model.logits(Rows{{2, 3}, {}}), Contains("row 1 is empty"));
  REQUIRE_THROWS_WITH(model.logits(Rows{{2, 900, 3}}), Contains("row 0 holds id 900, expected 0 to 899"));
  REQUIRE_THROWS_WITH(model.logits(Rows{{2, -1, 3}}), Contains("holds id -1"));
  REQUIRE_THROWS_WITH(model.logits(Rows{std::vector<std::int32_t>(41, 2)}), Contains("a row has 41 tokens, expected 40 at the most"));
}

TEST_CASE("EncoderConfig: defaults, labels and positions of each family") {
  const json minimal = {{"vocab_size", 9}, {"hidden_size", 8}, {"intermediate_size", 8}, {"num_hidden_layers", 1}, {"num_attention_heads", 2}};
  const auto of = [&](const char* family) {
    json config = minimal;
    config["model_type"] = family;
    return EncoderConfig::from_json(config);
  };
  for (const char* family : {"roberta", "xlm-roberta", "luke"}) {
    REQUIRE(of(family).pad_token_id == 1);
    REQUIRE(of(family).max_length() == 510);
  }
  const EncoderConfig bert = of("bert");
  REQUIRE(bert.pad_token_id == 0);
  REQUIRE(bert.max_length() == 512);
  REQUIRE(bert.layer_norm_eps == 1e-12);
  REQUIRE(bert.type_vocab_size == 2);
  REQUIRE(bert.hidden_act == dapt::Activation::gelu);
  REQUIRE(bert.labels == std::vector<std::string>{"LABEL_0", "LABEL_1"});
  REQUIRE(EncoderConfig::from_json(small_config("luke")).labels == std::vector<std::string>{"LABEL_0"});

  const EncoderConfig named = EncoderConfig::from_json(small_config("bert"));
  REQUIRE(named.label_index("good") == 2);
  REQUIRE(named.label_index("1") == 1);
  for (const char* wrong : {"3", "-1", "", "Good", "1x"})
    REQUIRE_THROWS_WITH(named.label_index(wrong), "classifier: no label \"" + std::string(wrong) + "\"; it has 0 poor, 1 fair, 2 good");
}

TEST_CASE("EncoderConfig refuses by name what would change the scores") {
  REQUIRE_THAT(refusal("bert", {{"model_type", "deberta-v2"}}), Contains("model_type is \"deberta-v2\", expected one of bert, roberta, xlm-roberta, luke"));
  REQUIRE_THAT(refusal("bert", {{"hidden_act", "quick_gelu"}}), Contains("hidden_act is \"quick_gelu\", which is not supported"));
  REQUIRE_THAT(refusal("bert", {{"position_embedding_type", "relative_key"}}), Contains("position_embedding_type is \"relative_key\""));
  REQUIRE_THAT(refusal("roberta", {{"is_decoder", true}}), Contains("is_decoder is true"));
  REQUIRE_THAT(refusal("bert", {{"add_cross_attention", true}}), Contains("add_cross_attention is true"));
  REQUIRE_THAT(refusal("bert", {{"quantization_config", json::object()}}), Contains("quantization_config is not supported"));
  REQUIRE_THAT(refusal("bert", {{"num_attention_heads", 3}}), Contains("hidden_size is 20, expected a multiple of num_attention_heads, 3"));
  REQUIRE_THAT(refusal("luke", {{"max_position_embeddings", 2}}), Contains("max_position_embeddings is 2, expected more than 2"));
  REQUIRE_THAT(refusal("luke", {{"pad_token_id", -1}}), Contains("pad_token_id is -1"));
  REQUIRE_THAT(refusal("bert", {{"vocab_size", nullptr}}), Contains("\"vocab_size\" is missing"));
  REQUIRE_THAT(refusal("bert", {{"id2label", {{"2", nullptr}, {"3", "x"}}}}), Contains("none, or no string, for id 2"));
  REQUIRE_THAT(refusal("roberta", {{"num_labels", 0}}), Contains("num_labels is 0"));
  REQUIRE_THAT(refusal("roberta", {{"num_labels", 1000000000000}}), Contains("num_labels is 1000000000000, expected at most 65536"));
  for (const char* same : {"gelu_python", "gelu_pytorch_tanh"}) REQUIRE(refusal("bert", {{"hidden_act", same}}) == "accepted");
}

TEST_CASE("load_encoder_classifier: missing, unexpected and unused tensors") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto load = [&] { return dapt::load_encoder_classifier(folder.path(), at::kFloat); };
  const auto at_folder = folder.path().string();
  REQUIRE_THROWS_WITH(dapt::load_encoder_classifier(folder.path() / "none", at::kFloat), Contains("not a folder"));

  write_changed(folder.path(), "bert", [](auto& tensors) { tensors.erase("classifier.weight"); });
  REQUIRE_THROWS_WITH(load(), at_folder + ": no tensor \"classifier.weight\" in its weights; expected a bert sequence classifier");
  write_changed(folder.path(), "bert", [](auto& tensors) { tensors["bert.extra"] = tensors["classifier.bias"].clone(); });
  REQUIRE_THROWS_WITH(load(), Contains("model.safetensors: unexpected tensor \"bert.extra\""));
  write_changed(folder.path(), "bert", [](auto& tensors) { tensors["classifier.bias"] = tensors["bert.pooler.dense.bias"].clone(); });
  REQUIRE_THROWS_WITH(load(), Contains(at_folder) && Contains("tensor \"classifier.bias\" has shape [20], expected [3]"));

  // Old names of the norms, an index table, and LUKE without its entities: the same scores.
  const Rows row = {{2, 7, 8, 3}};
  write_changed(folder.path(), "bert", [](auto& tensors) {
    std::map<std::string, Tensor> renamed{{"bert.embeddings.position_ids", at::arange(40, at::kLong).unsqueeze(0)}};
    for (const auto& [name, tensor] : tensors) {
      std::string older = name;
      if (name.ends_with("LayerNorm.weight")) older.replace(name.size() - 6, 6, "gamma");
      if (name.ends_with("LayerNorm.bias")) older.replace(name.size() - 4, 4, "beta");
      renamed[older] = tensor;
    }
    tensors = renamed;
  });
  REQUIRE(load().logits(row).equal(dapt::load_encoder_classifier(family_folder("bert"), at::kFloat).logits(row)));
  write_changed(folder.path(), "luke", [](auto& tensors) {
    REQUIRE(tensors.contains("luke.encoder.layer.0.attention.self.w2e_query.weight"));
    std::erase_if(tensors, [](const auto& entry) { return entry.first.find("2e_query") != std::string::npos || entry.first.find("entity") != std::string::npos; });
  });
  REQUIRE(load().logits(row).equal(dapt::load_encoder_classifier(family_folder("luke"), at::kFloat).logits(row)));
}
