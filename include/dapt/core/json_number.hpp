// Numbers in JSON, which has no word for NaN and the infinities.
#pragma once

#include <cmath>
#include <limits>
#include <string>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// null is NaN: what nlohmann's dump makes of it, and of the infinities.
inline double number_or_nan(const nlohmann::json& json) { return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>(); }

/// null, "inf", "-inf": for files that tell the infinities from NaN.
inline nlohmann::ordered_json exact_json(double value) {
  if (std::isfinite(value)) return value;
  if (std::isnan(value)) return nullptr;
  return value > 0 ? "inf" : "-inf";
}

inline double exact_number(const nlohmann::json& json) {
  if (!json.is_string()) return number_or_nan(json);
  const auto& text = json.get_ref<const std::string&>();
  require(text == "inf" || text == "-inf", "found \"", text, "\", expected a number, null, \"inf\" or \"-inf\"");
  return text == "inf" ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

}  // namespace dapt::detail
