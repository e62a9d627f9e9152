// Which rank is to blame: c10d says that a connection broke or that nothing came in time, not who is gone. Each rank writes a beat into the store where they met, and
// reads those of the others, on a thread of its own; a rank whose beat stands still was killed, stopped or cut off. A beat also says how many works its rank has finished, for those that wait for one without
// an end.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace dapt::detail {

/// The store must be one that nothing else uses: a call that hangs because its host was stopped then holds up nothing but this thread.
class Heartbeat {
  using Clock = std::chrono::steady_clock;

 public:
  static constexpr std::chrono::milliseconds interval{500};

  /// Returns once all ranks' beats are there; throws what the store throws.
  Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int size, bool hosts_store) : shared_(std::make_shared<Shared>()) {
    shared_->store = std::move(store);
    shared_->rank = rank;
    shared_->hosts_store = hosts_store;
    for (int i = 0; i < size; ++i) shared_->keys.push_back("beat/" + std::to_string(i));
    shared_->others.resize(static_cast<std::size_t>(size));
    shared_->round();
    thread_ = std::thread([shared = shared_] { shared->run(); });
  }
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;
  ~Heartbeat() {
    std::unique_lock lock(shared_->mutex);
    shared_->ends = true;
    shared_->changed.notify_all();
    const bool ended = shared_->changed.wait_for(lock, 2 * interval, [&] { return shared_->ended; });
    lock.unlock();
    if (ended) thread_.join();
    else thread_.detach();  // in a call to a store whose host was stopped
  }

  /// Tells the others that this rank ends before its time, and why. Returns after the others could read it.
  void leave(const std::string& why) { shared_->say("left " + why); }

  /// One more work of this rank is done: the next beat says so, and comes at once.
  void finish() {
    const std::lock_guard lock(shared_->mutex);
    ++shared_->finished;
    shared_->beat_at_once();
  }

  /// Waits until rank 0, or all where `all` says so, have finished `count` works, however long that takes, while their beats come. Else returns what became of one: it ended, its connections broke, or
  /// nothing was heard of it for `patience`.
  std::string wait_for(bool all, std::int64_t count, std::chrono::milliseconds patience) {
    std::unique_lock lock(shared_->mutex);
    shared_->pause = std::chrono::milliseconds(10);
    shared_->beat_at_once();
    std::string found;
    const std::size_t ranks = all ? shared_->others.size() : 1;
    while (!shared_->have_finished(ranks, count) && found.empty()) {
      shared_->changed.wait_for(lock, interval);
      found = shared_->judge_first(ranks, std::max(patience, silence));
    }
    if (shared_->have_finished(ranks, count)) return "";
    lock.unlock();
    shared_->say("lost " + found);
    return found;
  }

  /// After an operation failed: which rank is the cause, as far as can be found out within a few beats. Tells the others, who may see other failures because of it.
  std::string cause() {
    std::string found;
    for (int beats = 0; beats < 10 && found.empty(); ++beats) {
      std::this_thread::sleep_for(interval);
      found = shared_->judge();
    }
    if (found.empty()) found = "every rank still answers, so a message between two of them is late or lost, or one worked for longer than the timeout (--rank-timeout of the program), as where it writes to a slow disk";
    shared_->say("lost " + found);
    return found;
  }

 private:
  static constexpr std::chrono::milliseconds silence = 3 * interval;

  struct Other {
    std::string state;
    std::int64_t finished = 0;
    Clock::time_point changed = Clock::now();
  };

  struct Shared {
    static constexpr const char* no_sign = " gives no sign of life: killed, stopped or cut off";

    c10::intrusive_ptr<c10d::Store> store;
    int rank = 0;
    bool hosts_store = true;
    std::vector<std::string> keys;
    std::vector<Other> others;
    std::string last_words;
    std::int64_t beats = 0, finished = 0;
    Clock::time_point contact = Clock::now();
    std::chrono::milliseconds pause = interval;  // until the next beat; shorter where this rank has just begun to wait for another
    bool at_once = false, lost_store = false, ends = false, ended = false;
    std::mutex mutex;
    std::condition_variable changed;

    void beat_at_once() {
      at_once = true;
      changed.notify_all();
    }

    /// Writes this rank's beat and reads all.
    void round() {
      std::string state;
      {
        const std::lock_guard lock(mutex);
        state = last_words.empty() ? "beat " + std::to_string(beats++) + " " + std::to_string(finished) : last_words;
      }
      store->set(keys[static_cast<std::size_t>(rank)], std::vector<std::uint8_t>(state.begin(), state.end()));
      const std::vector<std::vector<std::uint8_t>> all = store->multiGet(keys);
      const std::lock_guard lock(mutex);
      contact = Clock::now();
      for (std::size_t i = 0; i < all.size(); ++i) {
        const std::string_view now(reinterpret_cast<const char*>(all[i].data()), all[i].size());
        if (now == others[i].state) continue;
        others[i].state = now;
        others[i].changed = contact;
        if (now.starts_with("beat ")) others[i].finished = std::stoll(others[i].state.substr(now.rfind(' ')));
      }
      changed.notify_all();
    }

    void run() {
      try {
        for (std::unique_lock lock(mutex); !ends;) {
          changed.wait_for(lock, pause, [&] { return ends || at_once; });
          at_once = false;
          pause = std::min(2 * pause, interval);
          lock.unlock();
          round();
          lock.lock();
        }
      } catch (const std::exception&) {
        const std::lock_guard lock(mutex);
        lost_store = true;
      }
      const std::lock_guard lock(mutex);
      ended = true;
      changed.notify_all();
    }

    /// Empty where nothing is to be seen (yet).
    std::string judge() {
      const std::lock_guard lock(mutex);
      const auto silent = Clock::now() - silence;
      for (std::size_t i = 0; i < others.size(); ++i)
        if (others[i].state.starts_with("left ")) return "rank " + std::to_string(i) + " ended: " + others[i].state.substr(5);
      for (std::size_t i = 0; i < others.size(); ++i)
        if (others[i].state.starts_with("lost ") && static_cast<int>(i) != rank) return others[i].state.substr(5);
      if (const std::string store_gone = judge_store(silent); !store_gone.empty()) return store_gone;
      std::string gone;
      for (std::size_t i = 0; i < others.size(); ++i)
        if (static_cast<int>(i) != rank && others[i].changed < silent) gone += (gone.empty() ? "rank " : ", rank ") + std::to_string(i);
      return gone.empty() ? gone : gone + no_sign;
    }

    /// Whether the first `ranks` have. By one who holds the mutex.
    bool have_finished(std::size_t ranks, std::int64_t count) const {
      return std::all_of(others.begin(), others.begin() + static_cast<std::ptrdiff_t>(ranks), [&](const Other& other) { return other.finished >= count; });
    }

    /// What judge() says, of the first `ranks` alone, by one who holds the mutex.
    std::string judge_first(std::size_t ranks, std::chrono::milliseconds patience) const {
      for (std::size_t i = 0; i < ranks; ++i)
        if (others[i].state.starts_with("left ")) return "rank " + std::to_string(i) + " ended: " + others[i].state.substr(5);
      for (std::size_t i = 0; i < ranks; ++i)
        if (others[i].state.starts_with("lost ")) return others[i].state.substr(5);
      const auto silent = Clock::now() - patience;
      if (const std::string store_gone = judge_store(silent); !store_gone.empty()) return store_gone;
      for (std::size_t i = 0; i < ranks; ++i)
        if (static_cast<int>(i) != rank && others[i].changed < silent) return "rank " + std::to_string(i) + no_sign;
      return "";
    }

    std::string judge_store(Clock::time_point silent) const {
      if (!lost_store && contact >= silent) return "";
      return (hosts_store ? "rank 0" : "the store") + std::string(lost_store ? " closed its connections: it was killed or its machine failed" : " does not answer: it was stopped or cut off");
    }

    /// Instead of a beat from now on. The rank that hosts the store waits until the others could read it.
    void say(std::string words) {
      std::unique_lock lock(mutex);
      if (!last_words.empty() || ended) return;
      last_words = std::move(words);
      changed.wait_for(lock, (hosts_store && rank == 0 ? 4 : 2) * interval, [&] { return ended; });
    }
  };

  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace dapt::detail
