// Options of a Hugging Face config.json or an object in it: absent and null give the default, a wrong type is an error that names the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>

namespace dapt::detail {

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
    return json_[key].get<std::int64_t>();
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

/// Throws dapt::Error naming the file if it cannot be opened or is not JSON.
inline nlohmann::json read_config(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  require(in.good(), file.string(), ": cannot open");
  try {
    return nlohmann::json::parse(in);
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": not JSON: ", error.what());
  }
}

}  // namespace dapt::detail
