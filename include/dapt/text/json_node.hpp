// A value of a JSON file that knows where it stands, so that an error names the file, the path inside it, and what was found.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>

namespace dapt::text {

/// Borrows the value, which must outlive it.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& where() const { return where_; }

  /// There is such a member and it is not null.
  bool has(const char* key) const { return value_->is_object() && value_->contains(key) && !(*value_)[key].is_null(); }

  JsonNode at(const char* key) const {
    require(value_->is_object(), where_, ": found ", value_->type_name(), ", expected an object");
    require(value_->contains(key), where_, ": \"", key, "\" is missing");
    return {(*value_)[key], where_ + "." + key};
  }

  /// bool, an integer or std::string.
  template <class T>
  T as() const {
    if constexpr (std::same_as<T, bool>) {
      require(value_->is_boolean(), where_, ": found ", value_->type_name(), ", expected true or false");
    } else if constexpr (std::integral<T>) {
      require(value_->is_number_integer(), where_, ": found ", value_->type_name(), ", expected an integer");
      return detail::whole_number<T>(*value_, where_);
    } else {
      require(value_->is_string(), where_, ": found ", value_->type_name(), ", expected a string");
    }
    return value_->get<T>();
  }

  template <class T>
  T get(const char* key) const { return at(key).as<T>(); }

  /// `otherwise` where the member is missing or null.
  template <class T>
  T get_or(const char* key, T otherwise) const { return has(key) ? get<T>(key) : std::move(otherwise); }

  /// Calls f(JsonNode) with each element of the array `key`.
  template <class F>
  void for_each(const char* key, F&& f) const {
    const JsonNode array = at(key);
    require(array.value().is_array(), array.where(), ": found ", array.value().type_name(), ", expected an array");
    std::size_t index = 0;
    for (const auto& element : array.value()) f(JsonNode(element, array.where() + "[" + std::to_string(index++) + "]"));
  }

  /// The component that this node describes is not one that dapt implements.
  [[noreturn]] void refuse(std::string_view kind, std::string_view name) const {
    fail(where_, ": ", kind, " \"", name, "\" is not supported");
  }

 private:
  const nlohmann::json* value_;
  std::string where_;
};

/// A string that is looked for, and so cannot be empty.
inline std::string not_empty(const JsonNode& node, const char* key) {
  auto text = node.get<std::string>(key);
  require(!text.empty(), node.where(), ".", key, ": found an empty string");
  return text;
}

}  // namespace dapt::text
