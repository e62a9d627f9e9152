// An own metric: any type with a name and `MetricValue evaluate(model, tokenizer) const`. This one asks how often the model prefers
// the first of two sentences. Run: custom_metric   (scores a made-up model, no download)
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include <dapt/concepts/metric.hpp>
#include <dapt/core/error.hpp>
#include <dapt/metrics/scored_rows.hpp>

// [metric]
struct Preference {
  static constexpr std::string_view name = "preference";
  std::vector<std::pair<std::string, std::string>> pairs = {};  // better, worse

  template <dapt::CausalLM M, dapt::Tokenizer K>
  dapt::MetricValue evaluate(M& model, const K& tokenizer) const {
    const auto start = dapt::metrics::start_token(tokenizer, "");
    std::vector<dapt::metrics::ScoredRow> rows;
    for (const auto& [better, worse] : pairs) {
      for (const std::string& text : {better, worse}) {
        const auto ids = tokenizer.encode(text, dapt::SpecialText::as_tokens);
        dapt::require(!ids.empty(), "preference: \"", text, "\" has no tokens");
        dapt::metrics::ScoredRow row{{start.id}, ids};
        row.input_ids.insert(row.input_ids.end(), ids.begin(), ids.end() - 1);
        rows.push_back(std::move(row));
      }
    }
    const std::vector<double> sums = dapt::metrics::sum_log_probs(model, rows, 1024);
    dapt::MetricValue result;
    result.name = name;
    double preferred = 0;
    for (std::size_t i = 0; i < pairs.size(); ++i) preferred += sums[2 * i] > sums[2 * i + 1] ? 1 : 0;
    result.value = pairs.empty() ? std::numeric_limits<double>::quiet_NaN() : preferred / static_cast<double>(pairs.size());
    return result;
  }
};
// [metric]

struct Bytes {
  dapt::SpecialTokens special = {.bos = {}, .eos = {}, .unk = {}, .pad = {}, .end_of_document = 256, .adds_bos = false};
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText) const {
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>& ids) const { return {ids.begin(), ids.end()}; }
  std::optional<std::int32_t> token_to_id(std::string_view) const { return std::nullopt; }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return 257; }
};

// Every byte has probability 1/256, so the shorter text is always preferred.
struct Uniform {
  dapt::Tensor token_log_probs(const dapt::Batch& batch) {
    const dapt::Tensor log_prob = at::full(batch.labels.sizes(), -std::log(256.0), at::kFloat);
    return at::where(batch.labels.ne(dapt::ignore_index), log_prob, at::full_like(log_prob, 0));
  }
  dapt::LossSum loss(const dapt::Batch& batch) { return {token_log_probs(batch).sum().neg(), batch.supervised_tokens}; }
  dapt::NamedParameters parameters() { return {}; }
  std::vector<dapt::Linear*> linears() { return {}; }
};
static_assert(dapt::check_metric<Preference, Uniform, Bytes>());

int main() {
  Uniform model;
  const Preference metric{.pairs = {{"dpkg", "dpkg-dev"}, {"apt-get", "apt"}}};
  const dapt::MetricValue value = metric.evaluate(model, Bytes{});
  std::printf("%s %.2f\n", value.name.c_str(), value.value);
  return value.value == 0.5 ? 0 : 1;
}
