// How a model stretches RoPE beyond the positions it was first trained on, as config.json says it: the types of transformers 5.24 that Llama, Mistral and Qwen
// checkpoints use. What they do to the frequencies is in models/rope_frequencies.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <variant>

#include <dapt/core/error.hpp>
#include <dapt/models/config_reader.hpp>

namespace dapt {

struct DefaultRope {};

/// All frequencies divided by `factor`: Chen et al. 2023 (arXiv:2306.15595).
struct LinearRope {
  double factor = 1;
};

/// NTK-aware: theta grows with the longest sequence of a call once it exceeds max_position_embeddings. transformers remembers the longest of earlier calls;
/// here each call stands for itself.
struct DynamicRope {
  double factor = 1;
  std::int64_t max_position_embeddings = 0;
};

/// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
struct Llama3Rope {
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;
};

/// YaRN: Peng et al. 2023 (arXiv:2309.00071). attention_factor multiplies cosines and sines.
struct YarnRope {
  double factor = 1, beta_fast = 32, beta_slow = 1, attention_factor = 1;
  std::int64_t original_max_position_embeddings = 0;
  bool truncate = true;  ///< bounds of the ramp rounded to whole dimensions
};

using RopeScaling = std::variant<DefaultRope, LinearRope, DynamicRope, Llama3Rope, YarnRope>;

namespace detail {

struct RopeOptions {
  double theta = 10000;
  RopeScaling scaling;
};

/// attention_factor, where the file does not give it.
inline double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
  const auto scaled = [&](double by) { return factor <= 1 ? 1 : 0.1 * by * std::log(factor) + 1; };
  return mscale != 0 && mscale_all_dim != 0 ? scaled(mscale) / scaled(mscale_all_dim) : scaled(1);
}

inline YarnRope read_yarn(const ConfigReader& rope, std::int64_t original, std::int64_t max_position_embeddings) {
  YarnRope yarn{.original_max_position_embeddings = original, .truncate = rope.flag("truncate", true)};
  yarn.factor = rope.is_null("factor") ? static_cast<double>(max_position_embeddings) / static_cast<double>(original) : rope.number("factor");
  const auto given = [&](const char* key, double otherwise) { return rope.number(key, 0) == 0 ? otherwise : rope.number(key); };
  yarn.beta_fast = given("beta_fast", 32);
  yarn.beta_slow = given("beta_slow", 1);
  yarn.attention_factor = rope.number("attention_factor", yarn_attention_factor(yarn.factor, rope.number("mscale", 0), rope.number("mscale_all_dim", 0)));
  return yarn;
}

/// From "rope_scaling" where it is not empty, else from "rope_parameters"; the base also from "rope_theta" beside them.
inline RopeOptions read_rope(const ConfigReader& config, std::int64_t max_position_embeddings) {
  require(config.number("partial_rotary_factor", 1) == 1, config.source(), ": partial_rotary_factor other than 1 is not supported");
  const char* key = config.has("rope_scaling") && !config.at("rope_scaling").empty() ? "rope_scaling" : "rope_parameters";
  const nlohmann::json none = nlohmann::json::object();
  const ConfigReader rope(config.has(key) ? config.at(key) : none, config.source() + ": " + key);
  for (const auto& [name, value] : rope.json().items()) require(!value.is_object(), rope.source(), ": \"", name, "\" is an object: RoPE by type of layer is not supported");
  require(rope.number("partial_rotary_factor", 1) == 1, rope.source(), ": partial_rotary_factor other than 1 is not supported");

  RopeOptions result{.theta = rope.number("rope_theta", config.number("rope_theta", 10000)), .scaling = DefaultRope{}};
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  // Beside the object it wins, as in transformers; only these two types look at it.
  const auto original = config.integer("original_max_position_embeddings", rope.integer("original_max_position_embeddings", max_position_embeddings));
  if (type == "linear") result.scaling = LinearRope{rope.number("factor")};
  else if (type == "dynamic") result.scaling = DynamicRope{rope.number("factor"), max_position_embeddings};
  else if (type == "llama3") result.scaling = Llama3Rope{rope.number("factor"), rope.number("low_freq_factor"), rope.number("high_freq_factor"), original};
  else if (type == "yarn") result.scaling = read_yarn(rope, original, max_position_embeddings);
  else require(type == "default", config.source(), ": ", key, " has type \"", type, "\", which is not supported; expected default, linear, dynamic, llama3 or yarn");
  return result;
}

inline void check_rope_scaling(const RopeScaling& scaling, const std::string& source) {
  std::visit(
      [&]<class Scaling>(const Scaling& rope) {
        const auto positive = [&](const char* name, auto value) { require(value > 0, source, ": RoPE scaling: ", name, " is ", value, ", expected more than 0"); };
        if constexpr (requires { rope.factor; }) positive("factor", rope.factor);
        if constexpr (requires { rope.max_position_embeddings; }) positive("max_position_embeddings", rope.max_position_embeddings);
        if constexpr (requires { rope.original_max_position_embeddings; }) positive("original_max_position_embeddings", rope.original_max_position_embeddings);
        if constexpr (requires { rope.low_freq_factor; }) {
          positive("low_freq_factor", rope.low_freq_factor);
          require(rope.high_freq_factor > rope.low_freq_factor, source, ": RoPE scaling: high_freq_factor is ", rope.high_freq_factor,
                  ", expected more than low_freq_factor, ", rope.low_freq_factor);
        }
        if constexpr (requires { rope.beta_fast; }) {
          positive("beta_fast", rope.beta_fast);
          positive("beta_slow", rope.beta_slow);
          positive("attention_factor", rope.attention_factor);
        }
      },
      scaling);
}

}  // namespace detail
}  // namespace dapt
