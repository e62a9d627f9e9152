// Scores that take long to make, kept as they are made: a run that was stopped or killed goes on behind the last batch of pages whose scores were written.
#pragma once

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/append_file.hpp>
#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/score_file.hpp>

namespace dapt {

/// A score file (data/score_file.hpp) that appears when it is finished; until then its lines are in `partial()`, beside it. Scores are remembered by whole batches, so that the scorer is given the
/// batches that it would have been given, and the scores have the bits of a run that was not stopped.
class ScoreJournal {
 public:
  /// Takes up `partial()` where it is there. Throws where its header is not `header`: what made the scores must be told by it.
  ScoreJournal(std::filesystem::path file, const ScoreHeader& header, std::int64_t pages_at_once)
      : file_(std::move(file)), partial_(file_.parent_path() / ("." + file_.filename().string() + ".partial")), header_(score_file_header(header)), pages_at_once_(pages_at_once) {
    require(pages_at_once >= 1, "ScoreJournal: pages_at_once is ", pages_at_once, ", expected at least 1");
    found_bytes_ = partial_bytes();
    std::ifstream in(partial_, std::ios::binary);
    std::string line;
    if (!std::getline(in, line) || in.eof()) return;  // without its end the header was being written
    require(line + '\n' == header_, partial_.string(), ":1: holds scores of another run: found ", line, ", expected ", std::string_view(header_).substr(0, header_.size() - 1),
            "; give the options that it was made with, or remove it");
    std::uintmax_t bytes = bytes_ = header_.size();
    for (std::int64_t lines = 1; std::getline(in, line) && !in.eof(); ++lines) {
      bytes += line.size() + 1;
      if (lines % pages_at_once != 0) continue;
      remembered_ = lines;
      bytes_ = bytes;
    }
    if (remembered_ > 0) reader_.emplace(partial_);
  }
  ScoreJournal(const ScoreJournal&) = delete;
  ScoreJournal& operator=(const ScoreJournal&) = delete;
  /// What holds no batch is not worth keeping.
  ~ScoreJournal() {
    std::error_code ignored;
    if (out_ && written_ < pages_at_once_ && remembered_ == 0) std::filesystem::remove(partial_, ignored);
    if (lock_ >= 0) ::close(lock_);
  }

  const std::filesystem::path& partial() const { return partial_; }
  /// Pages whose scores an earlier run left.
  std::int64_t remembered() const { return remembered_; }
  /// Pages whose scores the next run would remember.
  std::int64_t kept() const { return remembered_ + written_ / pages_at_once_ * pages_at_once_; }

  /// Opens the file for writing; of several processes one does. Throws where it cannot be written, and where another journal writes it: it is locked while this one lives.
  void begin() {
    writing([&] {
      std::error_code error;
      const auto status = std::filesystem::status(file_, error);
      require(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), "is no regular file, and would be replaced by one");
      lock_ = detail::open_locked(partial_, O_WRONLY | O_CREAT);
      require(lock_ >= 0, errno == EWOULDBLOCK ? "another run writes these scores just now: " : "cannot write: ", partial_.string(), errno == EWOULDBLOCK ? " is locked" : std::string(": ") + std::strerror(errno));
      require(partial_bytes() == found_bytes_, "another run wrote to ", partial_.string(), " since it was read; the same command goes on from there");
      if (bytes_ > 0) {
        std::filesystem::resize_file(partial_, bytes_, error);
        require(!error, "cannot cut ", partial_.string(), " to ", bytes_, " bytes: ", error.message());
      }
      out_.emplace(partial_, /*keep=*/bytes_ > 0);
      if (bytes_ > 0) return;
      out_->append(header_);
      bytes_ = header_.size();
    });
  }

  /// Whether the next pages are among those remembered.
  bool remembers() const { return passed_ < remembered_; }

  /// Of the next pages, all remembered. Throws where the file has those of other pages.
  std::vector<double> scores(std::span<const Page> pages) {
    std::vector<double> result;
    for (const Page& page : pages) {
      const std::int64_t expected = reader_->line() + 1;
      result.push_back(reader_->score(page));
      require(reader_->line() == expected, partial_.string(), ":", expected, ": is not the score of work \"", page.work, "\", page ", page.page, ": the pages have changed since; remove it to begin anew");
    }
    passed_ += static_cast<std::int64_t>(pages.size());
    return result;
  }

  /// Writes the scores of the pages that follow, after `begin`; else another process does, of the same pages. Every few seconds they are flushed to the disk.
  void add(std::span<const Page> pages, std::span<const double> scores) {
    if (pages.empty()) return;
    std::string lines;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      require(std::isfinite(scores[i]), "the score of work \"", pages[i].work, "\", page ", pages[i].page, " is ", scores[i], ", expected a finite number");
      lines += score_file_line(pages[i], scores[i]);
    }
    if (out_) writing([&] {
      out_->append(lines);
      bytes_ += lines.size();
      const auto now = std::chrono::steady_clock::now();
      if (now - flushed_ < std::chrono::seconds(5)) return;
      out_->flush();
      flushed_ = now;
    });
    written_ += static_cast<std::int64_t>(pages.size());
  }

  /// All pages have their scores: the file gets its name.
  void finish() {
    require(!remembers(), partial_.string(), ": holds scores of ", remembered_, " pages, found ", passed_, ": the pages have changed since; remove it to begin anew");
    if (!out_) return;
    writing([&] {
      out_->flush();
      std::error_code error;
      const std::uintmax_t found = std::filesystem::file_size(partial_, error);
      require(!error && found == bytes_, partial_.string(), " has ", error ? 0 : found, " bytes, expected ", bytes_, ": another run wrote to it as well");
      std::filesystem::rename(partial_, file_, error);
      require(!error, "cannot rename the finished file: ", error.message());
      out_.reset();
      detail::flush_folder(file_.parent_path());
    });
  }

 private:
  /// 0 where it is not there.
  std::uintmax_t partial_bytes() const {
    std::error_code error;
    const std::uintmax_t bytes = std::filesystem::file_size(partial_, error);
    return error ? 0 : bytes;
  }

  /// Errors name the file that was asked for.
  template <class Work>
  void writing(const Work& work) const {
    try {
      work();
    } catch (const Error& error) {
      fail(file_.string(), ": ", error.what());
    }
  }

  std::filesystem::path file_, partial_;
  std::string header_;
  std::int64_t pages_at_once_, remembered_ = 0, passed_ = 0, written_ = 0;
  std::uintmax_t bytes_ = 0;  ///< of the partial file: up to the last batch that was found, then of all that was written
  std::uintmax_t found_bytes_ = 0;
  int lock_ = -1;  ///< on the partial file
  std::optional<ScoreReader> reader_;
  std::optional<AppendFile> out_;
  std::chrono::steady_clock::time_point flushed_ = std::chrono::steady_clock::now();
};

/// PageScorer: `scorer`, but for the pages whose scores `journal` remembers. score_pages must give as many pages at once as the journal was made for.
template <PageScorer S>
class JournaledScorer {
 public:
  static constexpr std::string_view name = S::name;

  JournaledScorer(S scorer, std::shared_ptr<ScoreJournal> journal) : scorer_(std::move(scorer)), journal_(std::move(journal)) {}

  std::vector<double> score(std::span<const Page> pages) const {
    if (journal_->remembers()) return journal_->scores(pages);
    std::vector<double> scores = scorer_.score(pages);
    require(scores.size() == pages.size(), "scorer ", S::name, ": found ", scores.size(), " scores for ", pages.size(), " pages, expected one each");
    journal_->add(pages, scores);
    return scores;
  }

 private:
  S scorer_;
  std::shared_ptr<ScoreJournal> journal_;
};

}  // namespace dapt
