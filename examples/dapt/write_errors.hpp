// What a run could not write while it trained: said when it begins, and at the end. The run goes on, or stops as after Ctrl-C and then fails, as --on-write-error says.
#pragma once

#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <system_error>
#include <utility>

#include <dapt/core/error.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/core/step_record.hpp>

#include "error_message.hpp"
#include "interrupt.hpp"

namespace dapt_program {

class WriteErrors {
 public:
  /// `before_message` clears the screen's progress line.
  WriteErrors(bool stops, std::function<void()> before_message = [] {}) : stops_(stops), before_message_(std::move(before_message)) {}

  /// write(); its dapt::Error, that of the system, or of memory that was refused, is said and remembered under `what`. Not so where this process is parted from the others: each would wait for the rest.
  template <class Write>
  void attempt(const std::string& what, Write&& write) {
    std::string& failing = failing_[what];
    try {
      write();
      failing.clear();
    } catch (const dapt::RanksParted&) {
      throw;
    } catch (const dapt::Error& error) {
      failed(what, failing, error.what());
    } catch (const std::exception& error) {
      const auto refused = dapt::refused_memory(error);
      if (!refused && dynamic_cast<const std::system_error*>(&error) == nullptr) throw;  // std::filesystem's are the system's
      failed(what, failing, refused ? "out of memory: " + *refused + " could not be had" : message_of(error));
    }
  }

  /// Says what is not written to this day. Throws the first error where the run was to stop for one.
  void finish() const {
    for (const auto& [what, error] : failing_)
      if (!error.empty()) std::cerr << what << " could not be written to its end: " << error << std::endl;
    dapt::require(!stops_ || first_.empty(), "stopped, because ", first_, "; what could be written is there, --resume goes on from the newest checkpoint");
  }

 private:
  void failed(const std::string& what, std::string& failing, const std::string& error) {
    if (failing.empty()) {
      before_message_();
      std::cerr << what << " cannot be written, the run " << (stops_ ? "stops" : "goes on") << ": " << error << std::endl;
    }
    failing = error;
    if (first_.empty()) first_ = what + ": " + failing;
    if (stops_) stop_requested = true;
  }

  bool stops_;
  std::function<void()> before_message_;
  std::map<std::string, std::string> failing_;  // by what is written: the last error, empty once it went well
  std::string first_;
};

/// Observer that hands on to another one, whose failure to write does not end the training by itself.
template <class Observer>
struct Attempting {
  WriteErrors& errors;
  std::string what;
  Observer& observer;
  void observe(const dapt::StepRecord& record) {
    errors.attempt(what, [&] { observer.observe(record); });
  }
};

}  // namespace dapt_program
