// A user's list of domain terms, and where they stand in a text.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>

namespace dapt {

/// Terms found without regard to ASCII case, as whole words: no ASCII letter or digit stands right before or after. (Japanese terms have
/// no such neighbours, so they are found anywhere.) Where several terms start at one place, the longest counts.
class Terms {
 public:
  /// Throws where no term is left after leaving out empty ones.
  explicit Terms(const std::vector<std::string>& terms) {
    for (const std::string& term : terms) {
      const auto first = term.find_first_not_of(" \t\r"), last = term.find_last_not_of(" \t\r");
      if (first != std::string::npos) terms_.push_back(lower(std::string_view(term).substr(first, last - first + 1)));
    }
    require(!terms_.empty(), "the list of domain terms is empty");
    std::sort(terms_.begin(), terms_.end());
    terms_.erase(std::unique(terms_.begin(), terms_.end()), terms_.end());
    for (std::size_t i = 0; i < terms_.size(); ++i) by_first_byte_[static_cast<unsigned char>(terms_[i][0])].push_back(i);
    for (auto& candidates : by_first_byte_) {
      std::stable_sort(candidates.begin(), candidates.end(), [this](auto a, auto b) { return terms_[a].size() > terms_[b].size(); });
    }
  }

  /// Lower-case and sorted, each once.
  const std::vector<std::string>& list() const { return terms_; }

  struct Count {
    std::int64_t occurrences = 0;  ///< places where a term stands; they do not overlap
    std::int64_t distinct = 0;     ///< different terms among them
  };

  Count count(std::string_view text) const {
    const std::string lowered = lower(text);
    const std::string_view view = lowered;
    std::vector<bool> seen(terms_.size(), false);
    Count count;
    for (std::size_t i = 0; i < view.size(); ++i) {
      if (i > 0 && is_word(view[i - 1])) continue;
      for (const std::size_t candidate : by_first_byte_[static_cast<unsigned char>(view[i])]) {
        const std::string_view term = terms_[candidate];
        const std::size_t after = i + term.size();
        if (view.substr(i, term.size()) != term || (after < view.size() && is_word(view[after]))) continue;
        ++count.occurrences;
        count.distinct += !seen[candidate];
        seen[candidate] = true;
        i = after - 1;
        break;
      }
    }
    return count;
  }

 private:
  static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
  static std::string lower(std::string_view text) {
    std::string lowered(text);
    for (char& c : lowered) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return lowered;
  }

  std::vector<std::string> terms_;
  std::array<std::vector<std::size_t>, 256> by_first_byte_;
};

/// Reads terms from files: *.jsonl gives the "answers" (array) or "answer" (string) of each line, as question and cloze files have them;
/// any other file has one term a line. Throws dapt::Error with file:line.
inline Terms read_terms(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> terms;
  for (const auto& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    require(stream.is_open(), "cannot read domain terms from ", path.string());
    std::string line;
    for (std::int64_t number = 1; std::getline(stream, line); ++number) {
      if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
      if (path.extension() != ".jsonl") {
        terms.push_back(line);
        continue;
      }
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      try {
        const auto value = detail::parse_json(line, path.string() + ":" + std::to_string(number));
        if (value.contains("answers")) {
          for (const auto& answer : value.at("answers")) terms.push_back(answer.get<std::string>());
        } else {
          terms.push_back(value.at("answer").get<std::string>());
        }
      } catch (const nlohmann::json::exception& error) {
        fail(path.string(), ":", number, ": expected an object with \"answers\": [string...] or \"answer\": string: ", error.what());
      }
    }
  }
  return Terms(terms);
}

}  // namespace dapt
