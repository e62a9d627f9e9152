// Scores that are written once and used again, since a threshold is tried more often than a model is run.
//
// JSON lines: first {"dapt_scores": 1, "scorer": string, "made_by": string, "min_score": number (the last two where there are any)}, then for each page
// {"work", "page", "hash", "score"}; hash is the FNV-1a of 128 bits over work, page and text, so that a score is used for the very page it was made of.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/input_file.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

struct ScoreHeader {
  std::string scorer;               ///< its name
  std::optional<double> min_score;  ///< the scorer's own rule, where it has one
  std::string made_by = {};         ///< of what models and options the scores follow, for a person to read
  bool operator==(const ScoreHeader&) const = default;
};

/// 32 hexadecimal digits.
inline std::string page_hash(const Page& page) {
  const Hash128 hash = fnv1a_128(page.work + '\0' + std::to_string(page.page) + '\0' + page.text);
  char digits[33];
  std::snprintf(digits, sizeof digits, "%016llx%016llx", static_cast<unsigned long long>(hash.high), static_cast<unsigned long long>(hash.low));
  return digits;
}

inline std::string score_file_header(const ScoreHeader& header) {
  nlohmann::ordered_json line{{"dapt_scores", 1}, {"scorer", header.scorer}};
  if (!header.made_by.empty()) line["made_by"] = header.made_by;
  if (header.min_score) line["min_score"] = *header.min_score;
  return line.dump() + '\n';
}

inline std::string score_file_line(const Page& page, double score) {
  return nlohmann::ordered_json{{"work", page.work}, {"page", page.page}, {"hash", page_hash(page)}, {"score", score}}.dump() + '\n';
}

/// Stage Page -> Page that also gives `write` the lines of a score file, its header first; at_end (data/pull_view.hpp) behind it learns of the end of the pages before a later
/// stage can find that none of them is good enough.
inline auto record_scores(ScoreHeader header, std::function<void(std::string_view)> write) {
  return stage([header = std::move(header), write = std::move(write)](auto pages) {
    struct Source {
      decltype(pages) pages_;
      std::function<void(std::string_view)> write_;
      std::optional<Page> next() {
        const Page* page = pages_.next();
        if (page == nullptr) return std::nullopt;
        write_(score_file_line(*page, *page->score));
        return *page;
      }
    };
    write(score_file_header(header));
    return Source{std::move(pages), write};
  });
}

/// Reads a score file beside the pages it was made of.
class ScoreReader {
 public:
  /// Throws where the file is no score file.
  explicit ScoreReader(std::filesystem::path path) : path_(std::move(path)), file_(path_) {
    const auto line = next_line();
    require(line && line->contains("dapt_scores"), path_.string(), ":1: is no score file, expected {\"dapt_scores\": 1, ...}");
    parse([&] {
      require(line->at("dapt_scores") == 1, path_.string(), ":1: dapt_scores is ", line->at("dapt_scores").dump(), ", expected 1");
      header_.scorer = line->at("scorer").get<std::string>();
      if (line->contains("made_by")) header_.made_by = line->at("made_by").get<std::string>();
      if (line->contains("min_score")) header_.min_score = line->at("min_score").get<double>();
    });
  }

  const ScoreHeader& header() const { return header_; }
  /// Of the file: the one read last.
  std::int64_t line() const { return number_; }

  /// The score of the next page. Pages come in the order in which they were written; scores of pages that are left out now are passed over. Throws where the
  /// rest of the file has none for this very page.
  double score(const Page& page) {
    const std::string hash = page_hash(page);
    const std::int64_t from = number_ + 1;
    while (const auto line = next_line()) {
      double score = 0;
      bool found = false;
      parse([&] {
        found = line->at("hash").get_ref<const std::string&>() == hash;
        score = line->at("score").get<double>();
      });
      if (found) return score;
    }
    fail(path_.string(), ": from line ", from, " on no score of work \"", page.work, "\", page ", page.page, page.source.empty() ? "" : " (" + page.source + ")",
         " with this text: the scores were made of other pages, or of these in another order");
  }

 private:
  template <class Work>
  void parse(const Work& work) {
    try {
      work();
    } catch (const nlohmann::json::exception& error) {
      fail(path_.string(), ":", number_, ": no line of a score file: ", error.what());
    }
  }

  std::optional<nlohmann::json> next_line() {
    constexpr std::size_t most_bytes = std::size_t{1} << 20;
    std::string text;
    if (!file_.read_line(text, most_bytes)) return std::nullopt;
    ++number_;
    return detail::parse_json(text, path_.string() + ":" + std::to_string(number_));
  }

  std::filesystem::path path_;
  InputFile file_;
  ScoreHeader header_;
  std::int64_t number_ = 0;  // of the line read last
};

/// Stage Page -> Page with the scores of a file.
inline auto stored_scores(std::shared_ptr<ScoreReader> scores) {
  return stage([scores = std::move(scores)](auto pages) {
    struct Source {
      decltype(pages) pages_;
      std::shared_ptr<ScoreReader> scores_;
      std::optional<Page> next() {
        const Page* page = pages_.next();
        if (page == nullptr) return std::nullopt;
        Page scored = *page;
        scored.score = scores_->score(scored);
        return scored;
      }
    };
    return Source{std::move(pages), scores};
  });
}

}  // namespace dapt
