// Which pages are of the domain, by a person's judgement: to tell how good a filter is, never to tune it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>

namespace dapt {

/// (work, page) -> is it of the domain?
using PageLabels = std::map<std::pair<std::string, std::int64_t>, bool>;

/// Reads JSON lines {"work": string, "page": integer, "domain": boolean}; blank ones are skipped. Throws dapt::Error with file:line, also where a key is given twice.
inline PageLabels read_page_labels(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  require(stream.is_open(), "cannot read page labels from ", path.string());
  PageLabels labels;
  detail::for_each_json_line(stream, path.string(), detail::JsonKeys::unique, [&](const nlohmann::json& value, const std::string& where) {
    try {
      const auto [it, is_new] = labels.try_emplace({value.at("work").get<std::string>(), detail::whole_number<std::int64_t>(value.at("page"), where + ": page")}, value.at("domain").get<bool>());
      require(is_new, where, ": work \"", it->first.first, "\", page ", it->first.second, " has a label already");
    } catch (const nlohmann::json::exception& error) {
      fail(where, ": expected {\"work\": string, \"page\": integer, \"domain\": boolean}: ", error.what());
    }
  });
  require(!labels.empty(), "the label file ", path.string(), " is empty");
  return labels;
}

}  // namespace dapt
