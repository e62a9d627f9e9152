// Post-processors of tokenizer.json: the special tokens that the reference puts around one text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/text/json_node.hpp>

namespace dapt::text {

struct Surroundings {
  std::vector<std::int32_t> prefix, suffix;
};

/// What TemplateProcessing's "single" has before and behind the text.
inline Surroundings template_surroundings(const JsonNode& node) {
  Surroundings around;
  bool behind = false;
  node.for_each("single", [&](const JsonNode& element) {
    if (element.has("Sequence")) {
      require(!behind && element.at("Sequence").get<std::string>("id") == "A", element.where(), ": expected the sequence \"A\" once");
      behind = true;
      return;
    }
    const auto name = element.at("SpecialToken").get<std::string>("id");
    node.at("special_tokens").at(name.c_str()).for_each("ids", [&](const JsonNode& id) { (behind ? around.suffix : around.prefix).push_back(id.as<std::int32_t>()); });
  });
  require(behind, node.where(), ".single: the sequence \"A\" is missing");
  return around;
}

/// What a post-processor puts around a text. Throws dapt::Error naming the component that is not known.
inline Surroundings surroundings(const JsonNode& node) {
  const auto type = node.get<std::string>("type");
  Surroundings around;
  if (type == "Sequence") {
    node.for_each("processors", [&](const JsonNode& element) {
      const Surroundings outer = surroundings(element);
      around.prefix.insert(around.prefix.begin(), outer.prefix.begin(), outer.prefix.end());
      around.suffix.insert(around.suffix.end(), outer.suffix.begin(), outer.suffix.end());
    });
  } else if (type == "TemplateProcessing") {
    around = template_surroundings(node);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    const auto id_of = [&](const char* key) {
      const JsonNode pair = node.at(key);
      require(pair.value().is_array() && pair.value().size() == 2, pair.where(), ": found ", pair.value().dump(), ", expected a token and its id");
      return JsonNode(pair.value()[1], pair.where() + "[1]").as<std::int32_t>();
    };
    around = {{id_of("cls")}, {id_of("sep")}};
  } else if (type != "ByteLevel") {
    node.refuse("post-processor", type);
  }
  return around;
}

}  // namespace dapt::text
