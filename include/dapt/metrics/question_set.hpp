// The task of a domain: questions with accepted answers, and sentences whose term is to be chosen among candidates.
// JSON lines: {"id", "question", "answers": [...]} and {"id", "sentence" with {word}, "answer", "candidates": [...]}; both may have a "group".
#pragma once

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/metrics/normalise.hpp>

namespace dapt {

/// A question whose answer is one term.
struct Question {
  std::string id = {};
  std::string question;
  std::vector<std::string> answers = {};  ///< accepted spellings; an exemplar of the prompt shows the first
  std::string group = {};                 ///< items of one group are also reported by themselves; empty: none
};

/// A sentence that explains a term, with `{word}` in the term's place.
struct ClozeItem {
  std::string id = {};
  std::string sentence;
  std::string answer;
  std::vector<std::string> candidates;  ///< at least two, the answer among them
  std::string group = {};

  /// The sentence with `candidate` for each `{word}`.
  std::string sentence_with(std::string_view candidate) const { return replace_all(sentence, placeholder, candidate); }

  static constexpr std::string_view placeholder = "{word}";
};

namespace metrics {

/// One line of a task file. Every complaint names file and line. Borrows what it is made of.
class TaskLine {
 public:
  TaskLine(const nlohmann::json& object, const std::string& where) : object_(object), where_(where) {
    require(object_.is_object(), where_, ": found ", object_.type_name(), ", expected an object");
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return object_.contains(key); }
  std::string text(const char* key) const { return text_of(member(key), key); }

  std::vector<std::string> texts(const char* key) const {
    const nlohmann::json& array = member(key);
    require(array.is_array(), where_, ": \"", key, "\" is ", array.type_name(), ", expected an array of strings");
    std::vector<std::string> all;
    for (const nlohmann::json& value : array) all.push_back(text_of(value, key));
    require(!all.empty(), where_, ": \"", key, "\" is empty");
    return all;
  }

 private:
  const nlohmann::json& member(const char* key) const {
    require(has(key), where_, ": \"", key, "\" is missing");
    return object_[key];
  }
  std::string text_of(const nlohmann::json& value, const char* key) const {
    require(value.is_string(), where_, ": \"", key, "\" holds ", value.type_name(), ", expected a string");
    auto text = value.get<std::string>();
    require(!strip(text).empty(), where_, ": \"", key, "\" holds an empty text");
    return text;
  }

  const nlohmann::json& object_;
  const std::string& where_;
};

/// Reads a file of JSON lines, `make(line)` giving one item each; blank lines are skipped.
template <class Make>
auto read_task(const std::filesystem::path& file, const Make& make) {
  std::ifstream stream(file, std::ios::binary);
  require(stream.is_open(), file.string(), ": cannot be opened");
  std::vector<decltype(make(std::declval<const TaskLine&>()))> items;
  std::set<std::string> ids;
  dapt::detail::for_each_json_line(stream, file.string(), dapt::detail::JsonKeys::unique, [&](const nlohmann::json& object, const std::string& where) {
    const TaskLine line(object, where);
    items.push_back(make(line));
    items.back().id = line.text("id");
    if (line.has("group")) items.back().group = line.text("group");
    require(ids.insert(items.back().id).second, where, ": id \"", items.back().id, "\" is used twice");
  });
  require(!items.empty(), file.string(), ": found no items, expected at least one line");
  return items;
}

}  // namespace metrics

/// Reads questions or exemplars ("qa.jsonl", "fewshot.jsonl"). Throws dapt::Error naming file and line.
inline std::vector<Question> read_questions(const std::filesystem::path& file) {
  return metrics::read_task(file, [](const metrics::TaskLine& line) {
    return Question{.id = {}, .question = line.text("question"), .answers = line.texts("answers"), .group = {}};
  });
}

/// Reads sentences with candidates ("cloze.jsonl"). Throws dapt::Error naming file and line.
inline std::vector<ClozeItem> read_cloze(const std::filesystem::path& file) {
  return metrics::read_task(file, [](const metrics::TaskLine& line) {
    ClozeItem item{.id = {}, .sentence = line.text("sentence"), .answer = line.text("answer"), .candidates = line.texts("candidates"), .group = {}};
    require(item.sentence.find(ClozeItem::placeholder) != std::string::npos, line.where(), ": \"sentence\" has no ", ClozeItem::placeholder);
    const std::set<std::string> distinct(item.candidates.begin(), item.candidates.end());
    require(distinct.size() == item.candidates.size(), line.where(), ": a candidate is given twice");
    require(distinct.size() >= 2, line.where(), ": found one candidate, expected at least two");
    require(distinct.contains(item.answer), line.where(), ": the answer \"", item.answer, "\" is not among the candidates");
    return item;
  });
}

}  // namespace dapt
