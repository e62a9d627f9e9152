// One line that says what is being done, of how much, and how long it will take; rewritten in place on a terminal.
// Where the output is not a terminal nothing is written, unless plain lines were asked for.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <unistd.h>

#include <dapt/concepts/observer.hpp>
#include <dapt/report/numbers.hpp>

namespace dapt {

struct ProgressLineOptions {
  std::string what{};                 ///< what is being done, e.g. "LoRA rank 8"; shown first
  std::FILE* stream = stderr;         ///< where the line goes
  std::optional<bool> terminal{};     ///< default: whether the stream is one
  double redraw_seconds = 0.1;        ///< on a terminal, at least this long between two drawings
  double plain_line_seconds = 0;      ///< elsewhere, a plain line every so many seconds, for log files; 0: none
  std::function<double()> seconds{};  ///< a clock that does not jump; default std::chrono::steady_clock
};

/// Observer; also for work that has no steps (`update`). Its destructor leaves the last state on the screen and ends the line.
class ProgressLine {
 public:
  explicit ProgressLine(ProgressLineOptions options = {});
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { finish(); }

  /// Share of the budget, step, loss, tokens/s, time left.
  void observe(const StepRecord& record);

  /// `done` of `total` things; `total` 0 where nobody knows. `text` is added as it is.
  void update(std::int64_t done, std::int64_t total, std::string_view text = {});

  /// Shows the last state and ends the line. What is shown afterwards starts a new one.
  void finish();

 private:
  void show(std::string line, bool last);
  std::string head() const { return options_.what.empty() ? std::string() : options_.what + "  "; }

  ProgressLineOptions options_;
  bool terminal_ = false;
  double started_ = 0;
  double shown_at_ = 0;
  bool shown_ = false;
  std::string pending_;  // the newest state, where it was too early to draw it
  bool open_ = false;    // the cursor stands in an unfinished line
};

namespace report {

inline std::string percent(double fraction) { return fixed(100.0 * std::clamp(fraction, 0.0, 1.0), 0) + " %"; }

/// Text from outside must not move the cursor or break the line.
inline std::string printable(std::string text) {
  std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

}  // namespace report

inline ProgressLine::ProgressLine(ProgressLineOptions options) : options_(std::move(options)) {
  if (!options_.seconds) {
    options_.seconds = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  }
  terminal_ = options_.terminal.value_or(isatty(fileno(options_.stream)) != 0);
  started_ = options_.seconds();
  shown_at_ = started_;
}

inline void ProgressLine::observe(const StepRecord& record) {
  std::string line = head() + report::percent(record.fraction) + "  step " + report::count(record.step);
  line += record.skipped ? "  skipped, nothing changed" : "  loss " + (std::isfinite(record.loss) ? report::fixed(record.loss, 3) : std::string("not finite"));
  line += "  " + report::count(record.tokens_per_second) + " tokens/s";
  if (record.skipped_steps > 0) line += "  " + report::count(record.skipped_steps) + " skipped";
  if (record.fraction > 0 && record.fraction < 1) line += "  " + report::duration(record.seconds * (1 - record.fraction) / record.fraction) + " left";
  show(std::move(line), record.fraction >= 1);
}

inline void ProgressLine::update(std::int64_t done, std::int64_t total, std::string_view text) {
  std::string line = head() + report::count(done);
  if (total > 0) line += " of " + report::count(total) + "  " + report::percent(static_cast<double>(done) / static_cast<double>(total));
  if (!text.empty()) line.append("  ").append(text);
  if (done > 0 && done < total) {
    line += "  " + report::duration((options_.seconds() - started_) * static_cast<double>(total - done) / static_cast<double>(done)) + " left";
  }
  show(std::move(line), total > 0 && done >= total);
}

inline void ProgressLine::show(std::string line, bool last) {
  const double every = terminal_ ? options_.redraw_seconds : options_.plain_line_seconds;
  if (!terminal_ && every <= 0) return;
  const double now = options_.seconds();
  pending_ = report::printable(std::move(line));
  const bool first = !shown_ && terminal_;  // a log file gets its first line after the first period, not at once
  if (!first && !last && now - shown_at_ < every) return;
  shown_ = true;
  shown_at_ = now;
  // Without automatic wrapping the terminal itself cuts the line at its edge, whatever its width and the characters' width.
  if (terminal_) std::fprintf(options_.stream, "\r\x1b[2K\x1b[?7l%s\x1b[?7h", pending_.c_str());
  else std::fprintf(options_.stream, "%s\n", pending_.c_str());
  std::fflush(options_.stream);
  pending_.clear();
  open_ = terminal_;
}

inline void ProgressLine::finish() {
  if (!pending_.empty()) show(std::move(pending_), true);
  if (open_) {
    std::fputc('\n', options_.stream);
    std::fflush(options_.stream);
  }
  open_ = false;
  shown_ = false;
}

static_assert(check_observer<ProgressLine>());

}  // namespace dapt
