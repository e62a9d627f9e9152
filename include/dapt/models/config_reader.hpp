// Options of a Hugging Face config.json or an object in it: absent and null give the default, a wrong type is an error that names the key.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>

namespace dapt::detail {

/// What a configuration may ask for, far beyond any model: no product of two sizes, in bytes and summed over the layers, then leaves 63 bits.
inline constexpr std::int64_t largest_size = 1 << 24, most_layers = 1 << 10, most_positions = std::int64_t{1} << 40;

inline void check_size(const std::string& source, const char* name, std::int64_t value, std::int64_t most = largest_size) {
  require(value > 0 && value <= most, source, ": ", name, " is ", value, ", expected ", value > 0 ? "at most " : "1 or more", value > 0 ? std::to_string(most) : "");
}

/// Refers to `json`, which must outlive it. Errors begin with `source`.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& json, std::string source) : json_(json), source_(std::move(source)) {
    require(json.is_object(), source_, ": found ", json.type_name(), ", expected an object");
  }

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  bool is_null(const char* key) const { return json_.contains(key) && json_[key].is_null(); }
  const nlohmann::json& at(const char* key) const { return json_[key]; }
  const nlohmann::json& json() const { return json_; }
  const std::string& source() const { return source_; }

  std::int64_t size(const char* key) const {
    require(has(key), source_, ": \"", key, "\" is missing");
    return integer(key, 0);
  }
  std::int64_t integer(const char* key, std::int64_t absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_number_integer(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a whole number");
    return whole_number<std::int64_t>(json_[key], source_ + ": \"" + key + "\"");
  }
  double number(const char* key) const {
    require(has(key), source_, ": \"", key, "\" is missing");
    return number(key, 0);
  }
  double number(const char* key, double absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_number(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a number");
    return json_[key].get<double>();
  }
  bool flag(const char* key, bool absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_boolean(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected true or false");
    return json_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_string(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a string");
    return json_[key].get<std::string>();
  }

 private:
  const nlohmann::json& json_;
  std::string source_;
};

}  // namespace dapt::detail
