#include "evaluation.hpp"

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <sstream>
#include <string_view>
#include <utility>

#include <ATen/Parallel.h>
#include <zlib.h>

#include <dapt/core/error.hpp>
#include <dapt/metrics/encode_with_bos.hpp>
#include <dapt/report/progress_line.hpp>

#include "embeddings.hpp"
#include "measured.hpp"
#include "processes.hpp"

namespace dapt_program {

namespace {

/// \n and \t of the command line as the characters they mean, and \\ as one backslash.
std::string unescaped(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      result += text[i];
      continue;
    }
    dapt::require(++i < text.size() && std::string_view("nt\\").find(text[i]) != std::string_view::npos, "\"", text, "\": expected n, t or \\ after each \\");
    result += text[i] == 'n' ? '\n' : text[i] == 't' ? '\t' : '\\';
  }
  return result;
}

/// The text of an item, of a stored result perhaps, whose items need not be today's: empty.
auto found_in(std::map<std::pair<std::string, std::string>, std::string> texts) {
  return [texts = std::move(texts)](const std::string& metric, const std::string& id) {
    const auto found = texts.find({metric, id});
    return found == texts.end() ? std::string() : found->second;
  };
}

/// Of texts one after the other.
class Checksum {
 public:
  Checksum& operator<<(std::string_view text) {
    const std::uint64_t size = text.size();
    crc_ = crc32_z(crc_, reinterpret_cast<const Bytef*>(&size), sizeof size);
    crc_ = crc32_z(crc_, reinterpret_cast<const Bytef*>(text.data()), text.size());
    return *this;
  }
  Checksum& operator<<(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) *this << text;
    return *this;
  }
  Checksum& operator<<(const std::vector<dapt::Question>& questions) {
    for (const dapt::Question& question : questions) *this << question.id << question.question << question.answers << question.group;
    return *this;
  }
  std::string text() const { return std::to_string(crc_); }

 private:
  uLong crc_ = crc32(0, nullptr, 0);
};

void require_start_token_has_effect(const TaskOptions& tasks, bool has_pages) {
  dapt::require(tasks.start_token.empty() || !tasks.cloze.empty() || has_pages, "--start-token has no effect without --cloze or pages for the perplexity");
}

}  // namespace

Evaluation::Evaluation(const TaskOptions& tasks, std::vector<dapt::Page> held_out, std::int64_t max_length) : Evaluation(tasks, max_length, !held_out.empty()) { add_pages(std::move(held_out)); }

Evaluation::Evaluation(const TaskOptions& tasks, std::int64_t max_length, bool has_pages) : tasks_(tasks), max_length_(max_length) {
  dapt::require(tasks.fewshot.empty() || !tasks.qa.empty(), "--fewshot has no effect without --qa");
  require_start_token_has_effect(tasks, has_pages);
  dapt::require(!tasks.qa.empty() || (tasks.stops.empty() && !tasks.exemplar_layout && !tasks.question_layout && !tasks.normalisation && !tasks.max_new_tokens),
                "--stop, --exemplar-layout, --question-layout, --normalisation and --max-new-tokens have no effect without --qa");
  dapt::require(!tasks.fewshot.empty() || !tasks.exemplar_layout, "--exemplar-layout has no effect without --fewshot");
  if (!tasks.qa.empty()) {
    questions_ = dapt::ExactMatch{.questions = dapt::read_questions(tasks.qa)};
    if (!tasks.fewshot.empty()) questions_->exemplars = dapt::read_questions(tasks.fewshot);
    if (!tasks.stops.empty()) questions_->stops.clear();
    for (const std::string& stop : tasks.stops) questions_->stops.push_back(unescaped(stop));
    dapt::require(std::ranges::none_of(questions_->stops, [](const std::string& stop) { return stop.empty(); }), "--stop: found an empty text, which would end each answer before it begins");
    questions_->max_new_tokens = tasks.max_new_tokens.value_or(questions_->max_new_tokens);
    if (tasks.exemplar_layout) questions_->prompt.exemplar = unescaped(*tasks.exemplar_layout);
    if (tasks.question_layout) questions_->prompt.query = unescaped(*tasks.question_layout);
    if (tasks.normalisation) questions_->normalisation = dapt::Normalisation::parse(*tasks.normalisation);
    questions_->prompt(questions_->exemplars, questions_->questions.front());  // throws where a layout lacks a placeholder
  }
  if (!tasks.cloze.empty()) sentences_ = dapt::LogProbMrr{.items = dapt::read_cloze(tasks.cloze), .start_token = tasks.start_token};
}

void Evaluation::add_pages(std::vector<dapt::Page> held_out) {
  require_start_token_has_effect(tasks_, !held_out.empty());
  if (!held_out.empty()) perplexity_ = dapt::Perplexity{.pages = std::move(held_out), .start_token = tasks_.start_token, .max_length = max_length_};
  note_checksums();
  if (tasks_.one_by_one) {
    if (questions_) questions_->batch_tokens = 1;
    if (sentences_) sentences_->batch_tokens = 1;
    if (perplexity_) perplexity_->batch_tokens = 1;
  }
}

std::string in_one_line(const std::map<std::string, std::string>& checksums) {
  std::string line;
  for (const auto& [metric, checksum] : checksums) line += (line.empty() ? "" : ", ") + metric + " " + checksum;
  return line;
}

Evaluation Evaluation::only(const std::vector<std::string>& metrics) const {
  Evaluation chosen = *this;
  const auto keep = [&](auto& metric) {
    if (metric && std::ranges::find(metrics, metric->name) == metrics.end()) metric.reset();
  };
  keep(chosen.questions_);
  keep(chosen.sentences_);
  keep(chosen.perplexity_);
  std::erase_if(chosen.checksums_, [&](const auto& entry) { return std::ranges::find(metrics, entry.first) == metrics.end(); });
  return chosen;
}

void Evaluation::note_checksums() {
  const auto note = [&](const auto& metric, const auto& add) {
    if (!metric) return;
    Checksum checksum;
    checksum << (tasks_.one_by_one ? "one by one" : "");
    add(checksum);
    checksums_[std::string(metric->name)] = checksum.text();
  };
  note(questions_, [&](Checksum& checksum) {
    checksum << questions_->questions << "exemplars" << questions_->exemplars << "stops" << questions_->stops << questions_->prompt.exemplar << questions_->prompt.query << questions_->normalisation.to_string()
             << std::to_string(questions_->max_new_tokens);
  });
  note(sentences_, [&](Checksum& checksum) {
    checksum << tasks_.start_token;
    for (const dapt::ClozeItem& item : sentences_->items) checksum << "sentence" << item.id << item.sentence << item.answer << item.candidates << item.group;
  });
  note(perplexity_, [&](Checksum& checksum) {
    checksum << tasks_.start_token << std::to_string(max_length_);
    for (const dapt::Page& page : perplexity_->pages) checksum << "page" << page.text;
  });
  require_same_in_all("the checksum of tasks and held-out pages", in_one_line(checksums_));
}

void Evaluation::tell_faults(const dapt::AnyTokenizer& tokenizer) const {
  const auto tell = [&](std::string_view metric, const std::string& notes) {
    if (std::exchange((*told_)[std::string(metric)], notes) != notes) std::cerr << notes << std::flush;
  };
  if (questions_) {
    std::ostringstream notes;
    const dapt::QuestionFaults faults = questions_->faults(tokenizer);
    const auto note = [&](std::int64_t count, const auto&... text) {
      if (count > 0) ((notes << count << " of " << questions_->questions.size() << " questions ") << ... << text) << '\n';
    };
    note(faults.too_long, "accept only answers longer than ", questions_->max_new_tokens, " tokens, which are never generated whole");
    note(faults.no_text, "accept only answers that a stop cuts or that are nothing when normalised (", questions_->normalisation.to_string(), "), and count as wrong");
    note(faults.unspelled, "accept only answers that this tokenizer does not spell, because it normalises text or lacks their characters; a --normalisation with nfkc may be what you want");
    note(faults.shown, "stand among the exemplars of --fewshot, with their answer");
    tell(questions_->name, notes.str());
  }
  if (sentences_) {
    std::ostringstream notes;
    if (const std::int64_t alike = sentences_->faults(tokenizer).alike; alike > 0)
      notes << alike << " of " << sentences_->items.size() << " sentences have candidates that are the same tokens to this tokenizer, and always tie\n";
    tell(sentences_->name, notes.str());
  }
}

std::vector<dapt::MetricValue> Evaluation::evaluate(dapt::Llama& model, const dapt::AnyTokenizer& tokenizer, const std::string& what) const {
  tell_faults(tokenizer);
  dapt::ProgressLine progress({.what = what, .stream = message_stream()});
  const std::int64_t total = questions_.has_value() + sentences_.has_value() + perplexity_.has_value();
  std::vector<dapt::MetricValue> values;
  const auto measure = [&](const auto& metric) {
    if (!metric) return;
    progress.update(std::ssize(values), total, metric->name);
    values.push_back(measured(*metric, model, tokenizer));
  };
  try {
    measure(questions_);
    measure(sentences_);
    measure(perplexity_);
  } catch (const dapt::Stopped&) {
    return {};
  }
  progress.update(total, total);
  return values;
}

void Evaluation::require_embeddings(const fs::path& model, const dapt::AnyTokenizer& tokenizer) const {
  const Embeddings embeddings(model, tokenizer);
  if (embeddings.has_all()) return;
  if (questions_)
    for (const dapt::Question& question : questions_->questions)
      embeddings.require_for(dapt::metrics::encode_with_bos(tokenizer, questions_->prompt(questions_->exemplars, question)), "the prompt of question \"" + question.id + "\"");
  if (perplexity_) embeddings.require_for(perplexity_->pages, at::get_num_threads());
  if (sentences_)
    for (const dapt::ClozeItem& item : sentences_->items)
      for (const std::string& candidate : item.candidates)
        embeddings.require_for(tokenizer.encode(item.sentence_with(candidate), dapt::SpecialText::as_tokens), "cloze item \"" + item.id + "\" with \"" + candidate + "\"");
}

std::function<std::string(const std::string& metric, const std::string& id)> Evaluation::groups() const {
  std::map<std::pair<std::string, std::string>, std::string> groups;  // a question and a sentence may have one id
  if (questions_)
    for (const dapt::Question& question : questions_->questions) groups[{"qa_exact", question.id}] = question.group;
  if (sentences_)
    for (const dapt::ClozeItem& item : sentences_->items) groups[{"logp_mrr", item.id}] = item.group;
  if (std::ranges::all_of(groups, [](const auto& entry) { return entry.second.empty(); })) return {};
  return found_in(std::move(groups));
}

std::function<std::string(const std::string& metric, const std::string& id)> Evaluation::item_texts() const {
  std::map<std::pair<std::string, std::string>, std::string> texts;
  if (questions_)
    for (const dapt::Question& question : questions_->questions) texts[{"qa_exact", question.id}] = question.question + " (" + question.answers.front() + ")";
  if (sentences_)
    for (const dapt::ClozeItem& item : sentences_->items) texts[{"logp_mrr", item.id}] = item.sentence + " (" + item.answer + ")";
  return found_in(std::move(texts));
}

}  // namespace dapt_program
