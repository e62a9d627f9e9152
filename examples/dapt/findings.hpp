// Copies and evaluation items that were found in a corpus.
#pragma once

#include <cstddef>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/find_duplicates.hpp>
#include <dapt/data/find_overlap.hpp>

#include "options.hpp"

namespace dapt_program {

/// Each as a JSON line of a file, where one is wanted, and the first of each kind for the screen.
class Findings {
 public:
  explicit Findings(const fs::path& file) {
    if (!file.empty()) file_.emplace(file);
  }

  void add(const dapt::Page& copy, const dapt::Page& original, const dapt::Duplicate& duplicate) {
    std::ostringstream text;
    text << place(copy) << " is a copy of " << place(original);
    if (!duplicate.exact) text << ", " << duplicate.jaccard << " alike";
    add(copies_, text.str());
    nlohmann::ordered_json line = place_json(copy);
    line.update({{"found", "copy"}, {"of", place_json(original)}, {"jaccard", duplicate.jaccard}, {"exact", duplicate.exact}});
    write(line);
  }
  void add(const dapt::Page& page, const dapt::EvaluationItem& item, double share) {
    std::ostringstream text;
    text << item.id << " stands in " << place(page) << ": " << 100 * share << " % of it";
    add(overlaps_, text.str());
    nlohmann::ordered_json line = place_json(page);
    line.update({{"found", "evaluation item"}, {"item", item.id}, {"share", share}});
    write(line);
  }

  std::vector<std::string> finish() {
    if (file_) file_->commit();
    std::vector<std::string> texts = copies_;
    texts.insert(texts.end(), overlaps_.begin(), overlaps_.end());
    return texts;
  }

 private:
  /// "pages.jsonl:12 (policy, page 3)"
  static std::string place(const dapt::Page& page) { return page.source + " (" + page.work + ", page " + std::to_string(page.page) + ")"; }
  static nlohmann::ordered_json place_json(const dapt::Page& page) { return {{"work", page.work}, {"page", page.page}, {"source", page.source}}; }
  static void add(std::vector<std::string>& texts, std::string text) {
    constexpr std::size_t shown = 5;
    if (texts.size() < shown) texts.push_back(std::move(text));
  }
  void write(const nlohmann::ordered_json& line) {
    if (file_) file_->write(line.dump() + '\n');
  }

  std::optional<dapt::AtomicFile> file_;
  std::vector<std::string> copies_, overlaps_;
};

}  // namespace dapt_program
