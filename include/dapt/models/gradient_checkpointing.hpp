// Which of a decoder's layers are run again in the backward pass instead of kept: an option. How it is done: models/recompute.hpp.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>

#include <dapt/core/error.hpp>

namespace dapt {

/// What of a decoder's layers keeps only its input for the backward pass and is run again there. From least memory to most speed: every layer, their
/// feed-forward parts (whose activations are the widest), their attention, every k-th layer.
struct GradientCheckpointing {
  enum class Part { none, layer, attention, mlp };

  Part part = Part::none;
  std::int64_t every = 1;  ///< >= 1: only in layers 0, every, 2 every, ...

  GradientCheckpointing(bool all_layers = false) : part(all_layers ? Part::layer : Part::none) {}
  GradientCheckpointing(Part what, std::int64_t every_nth = 1) : part(what), every(every_nth) { require(every >= 1, "gradient checkpointing: every ", every, "-th layer, expected at least 1"); }

  /// "none", "layers", "every:K", "attention" or "mlp".
  static GradientCheckpointing from_name(const std::string& name) {
    if (name == "none") return false;
    if (name == "layers") return true;
    if (name == "attention") return Part::attention;
    if (name == "mlp") return Part::mlp;
    std::int64_t k = 0;
    const char* end = name.data() + name.size();
    const bool number = name.starts_with("every:") && std::from_chars(name.data() + 6, end, k).ptr == end;
    require(number && k >= 1, "gradient checkpointing: found \"", name, "\", expected none, layers, every:K with K at least 1, attention or mlp");
    return {Part::layer, k};
  }
  std::string name() const {
    switch (part) {
      case Part::none: return "none";
      case Part::layer: return every == 1 ? "layers" : "every:" + std::to_string(every);
      case Part::attention: return "attention";
      default: return "mlp";
    }
  }

  /// What is recomputed in layer `index`.
  Part in_layer(std::int64_t index) const { return index % every == 0 ? part : Part::none; }
};

}  // namespace dapt
