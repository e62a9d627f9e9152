// Checkpoints of a training run on disk: folders step-000000042 with state.safetensors and checkpoint.json. A folder has its name only once everything in it is
// written and flushed, and what a folder holds is checked against checksums before any of it is used, so neither a crash nor a full disk can cost more
// than the checkpoint that was being written.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <zlib.h>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/json_number.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/io/safetensors.hpp>
#include <dapt/io/weight_file.hpp>

namespace dapt {

namespace detail {

inline constexpr int checkpoint_version = 1;

inline std::uint32_t crc_of(const Tensor& tensor) {
  const Tensor bytes = tensor.cpu().contiguous();
  uLong crc = crc32(0, nullptr, 0);
  return static_cast<std::uint32_t>(crc32_z(crc, static_cast<const Bytef*>(bytes.const_data_ptr()), bytes.nbytes()));
}

inline std::string checkpoint_name(std::int64_t windows) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%09lld", static_cast<long long>(windows));
  return name;
}

/// Not so the folder that a user copied to step-000000042-backup.
inline bool is_checkpoint_name(std::string_view name) {
  constexpr std::string_view prefix = "step-";
  return name.size() > prefix.size() && name.starts_with(prefix) && name.find_first_not_of("0123456789", prefix.size()) == name.npos;
}

/// Of a checkpoint that is being written.
inline bool is_temporary_name(std::string_view name) { return name.starts_with(".step-") && name.ends_with(".tmp"); }

}  // namespace detail

/// Reads a checkpoint that write_checkpoint wrote. The tensors are views into the file's map. Throws dapt::Error naming the file and what is wrong with it: damaged tensors by
/// their names.
inline Checkpoint read_checkpoint(const std::filesystem::path& folder);

namespace detail {

inline bool is_readable(const std::filesystem::path& checkpoint) {
  try {
    read_checkpoint(checkpoint);
    return true;
  } catch (const Error&) {
    return false;
  }
}

struct FoundCheckpoints {
  std::vector<std::filesystem::path> complete;    ///< oldest first
  std::vector<std::filesystem::path> incomplete;  ///< of such a name, or of the temporary one that it has while it is written; oldest first
  std::string failed;                           ///< what could not be looked at, and why; empty where all was
};

inline FoundCheckpoints find_checkpoints(const std::filesystem::path& folder) {
  FoundCheckpoints found;
  const auto looked = [&](const std::filesystem::path& at, const std::error_code& error) {
    if (error && found.failed.empty()) found.failed = at.string() + ": cannot look for checkpoints: " + error.message();
  };
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), none; !error && entry != none; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (is_temporary_name(name)) found.incomplete.push_back(entry->path());
    if (!is_checkpoint_name(name)) continue;
    std::error_code hidden;  // exists() sets none where there is nothing
    const bool is_complete = std::filesystem::exists(entry->path() / "checkpoint.json", hidden);
    if (!hidden) (is_complete ? found.complete : found.incomplete).push_back(entry->path());
    looked(entry->path(), hidden);
  }
  if (error != std::errc::no_such_file_or_directory) looked(folder, error);
  for (auto* all : {&found.complete, &found.incomplete}) std::sort(all->begin(), all->end());  // the names have their steps in nine digits
  return found;
}

/// Whether a readable checkpoint holds the weights, states and place in the data that the new `json` speaks of; its clock may say something else.
inline bool is_of_state(const std::filesystem::path& checkpoint, const nlohmann::json& json) {
  const nlohmann::json there = read_json_file(checkpoint / "checkpoint.json");
  return there.at("crc32") == json.at("crc32") && there.at("numbers") == json.at("numbers") && there.at("progress").at("position") == json.at("progress").at("position");
}

}  // namespace detail

/// The complete checkpoints of a folder, oldest first; of other names than write_checkpoint gives, none. A folder that does not exist has none; throws dapt::Error on one that cannot be read, or of
/// which an entry cannot be looked at.
inline std::vector<std::filesystem::path> complete_checkpoints(const std::filesystem::path& folder) {
  const detail::FoundCheckpoints found = detail::find_checkpoints(folder);
  require(found.failed.empty(), found.failed);
  return found.complete;
}

/// What complete_checkpoints passes over: checkpoints without the file that is written last, and what a process that was killed, or that still runs, has half-written.
inline std::vector<std::filesystem::path> incomplete_checkpoints(const std::filesystem::path& folder) { return detail::find_checkpoints(folder).incomplete; }

/// Writes `checkpoint` as FOLDER/step-N, N the windows it has seen, and returns that folder; then removes the oldest beyond `keep` of those up to N. before_naming() is called when all is on the
/// disk and the folder is about to get its name; if it throws, there is no such checkpoint. Throws dapt::Error naming the file and the system's reason; the checkpoints that were there stay. One of that
/// name is not written again where it holds the same weights, states and place in the data, and is replaced where it is damaged; throws where it holds another state.
inline std::filesystem::path write_checkpoint(const std::filesystem::path& folder, const Checkpoint& checkpoint, std::size_t keep = 2, const std::function<void()>& before_naming = {}) {
  require(keep >= 1, "write_checkpoint: keep is 0, expected at least 1");
  const std::filesystem::path target = folder / detail::checkpoint_name(checkpoint.progress.windows), temporary = folder / ("." + target.filename().string() + ".tmp");
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), none; !error && entry != none; entry.increment(error)) {  // what a run that was killed left half-written
    std::error_code ignored;
    if (detail::is_temporary_name(entry->path().filename().string())) std::filesystem::remove_all(entry->path(), ignored);
  }
  detail::make_folder(temporary);
  try {
    NamedParameters tensors;
    nlohmann::ordered_json checksums = nlohmann::ordered_json::object();
    for (const auto& [name, tensor] : checkpoint.tensors) {
      tensors.push_back({name, tensor});
      checksums[name] = 0;  // their order here is the names'
    }
    const auto checked = [&](const NamedParameter& tensor) {  // as it is written: who watches that bytes come sees no pause for all checksums
      const Tensor bytes = tensor.value.cpu();
      checksums[tensor.name] = detail::crc_of(bytes);
      return bytes;
    };
    write_safetensors(temporary / "state.safetensors", std::move(tensors), {{"format", "pt"}}, checked);
    const RunProgress& progress = checkpoint.progress;
    const nlohmann::ordered_json json = {
        {"version", detail::checkpoint_version},
        {"progress", {{"windows", progress.windows}, {"steps", progress.steps}, {"skipped", progress.skipped}, {"tokens", progress.tokens}, {"seconds", progress.seconds},
                      {"optimizer_seconds", progress.optimizer_seconds}, {"first_loss", progress.first_loss}, {"last_losses", progress.last_losses},
                      {"position", {{"epoch", progress.position.epoch}, {"sequence", progress.position.sequence}}}}},
        {"numbers", checkpoint.numbers},
        {"crc32", std::move(checksums)},
        {"header", checkpoint.header.entries},
        {"run", checkpoint.run.entries}};
    AtomicFile file(temporary / "checkpoint.json");
    file.write(json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");  // a header may name a file whose name is no UTF-8
    file.commit();
    if (before_naming) before_naming();
    if (std::filesystem::exists(target, error)) {  // where that cannot be told, the renaming fails and says why
      if (detail::is_readable(target)) {
        require(detail::is_of_state(target, json), target.string(), ": holds another state of the same step; give each run, and each call of train(), a folder of its own");
        std::filesystem::remove_all(temporary, error);  // the run was continued and stopped at once
        return target;
      }
      std::filesystem::remove_all(target, error);  // damaged: the run was continued from one before it
    }
    const int reason = ::rename(temporary.c_str(), target.c_str()) == 0 ? 0 : errno;
    require(reason == 0, target.string(), ": cannot rename the finished checkpoint: ", std::strerror(reason));
    detail::flush_folder(folder);
    detail::flush_folder(folder.parent_path());  // in which it may be new
  } catch (...) {
    std::filesystem::remove_all(temporary, error);
    throw;
  }
  std::vector<std::filesystem::path> all = detail::find_checkpoints(folder).complete;  // what cannot be looked at stays: the new one is complete all the same
  std::erase_if(all, [&](const std::filesystem::path& other) { return other > target; });  // of later steps, which could not be read: they must not push out a good one
  for (std::size_t i = 0; i + keep < all.size(); ++i) std::filesystem::remove_all(all[i], error);  // one that cannot be removed costs space, nothing else
  return target;
}

struct CheckpointOptions {
  std::int64_t every_steps = 0;   ///< 0: not by steps
  double every_minutes = 15;      ///< of wall time, with what observers take: after the first step that ends so long after the last one. 0: not by time
  std::size_t keep = 2;           ///< newest checkpoints that stay
  RunHeader run = {};             ///< goes into each checkpoint
  std::function<void()> before_naming = {};  ///< called by the writing thread as write_checkpoint() calls it: to flush what must not be older than the checkpoint, such as the log of its steps
  std::function<void()> without_copy = {};   ///< called where training is about to wait for a write, as memory for the copy was refused
  bool writes = true;             ///< false on ranks that only give rank 0 their part of sharded states, or wait for it: they have a writer of the same options for that
  /// ProcessGroup::after_first, with a writer on every rank: the others wait for what rank 0 writes, however long it takes, where they would fail in their next operation after the group's timeout.
  std::function<void(const std::function<void()>& work)> after_first = {};
};

/// Observer that writes the checkpoints of a trainer while it trains. Training waits while the state is copied in memory; a thread writes the copy, or where there is no memory for one, training waits for the
/// write. When one is due is decided by the steps'
/// own clock, so alike on all ranks.
template <class Trainer>
class CheckpointWriter {
 public:
  CheckpointWriter(Trainer& trainer, std::filesystem::path folder, CheckpointOptions options = {}) : trainer_(trainer), folder_(std::move(folder)), options_(std::move(options)) {
    require(options_.every_steps >= 0, "CheckpointOptions: every_steps is ", options_.every_steps, ", expected 0 (off) or more");
    require(options_.every_minutes >= 0 && std::isfinite(options_.every_minutes), "CheckpointOptions: every_minutes is ", options_.every_minutes, ", expected 0 (off) or more");
  }

  /// Throws dapt::Error where the checkpoint before could not be written, at the first step after that; one that is due is begun all the same.
  void observe(const StepRecord& record) {
    const bool by_step = options_.every_steps > 0 && record.step % options_.every_steps == 0;
    if (!last_ || record.wall_seconds < *last_) last_ = record.wall_seconds;  // each call of train() begins at 0
    const bool by_time = options_.every_minutes > 0 && record.wall_seconds - *last_ >= 60 * options_.every_minutes;
    const bool is_written = writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    if (!by_step && !by_time) {
      if (is_written) writing_.get();
      return;
    }
    std::exception_ptr failure;
    of_first([&] {
      try {
        wait();
      } catch (...) {
        failure = std::current_exception();
      }
    });
    last_ = record.wall_seconds;
    const auto checkpoint = std::make_shared<Checkpoint>(take());
    of_first([&] {
      if (write_beside_training(checkpoint)) return;
      if (options_.without_copy) options_.without_copy();
      write(*checkpoint);  // what has been copied is what it is a copy of
    });
    if (failure) std::rethrow_exception(failure);
  }

  /// Writes where the trainer stands now, and returns when that is on the disk; empty where this rank does not write. Throws as write_checkpoint does; that an earlier one failed does not matter
  /// any more.
  std::filesystem::path write() {
    of_first([&] {
      if (writing_.valid()) writing_.wait();
    });
    writing_ = {};
    const Checkpoint checkpoint = take();
    std::filesystem::path written;
    of_first([&] { written = write(checkpoint); });
    return written;
  }

 private:
  void of_first(const std::function<void()>& work) const {
    if (options_.after_first) options_.after_first(work);
    else if (options_.writes) work();
  }
  std::filesystem::path write(const Checkpoint& checkpoint) const { return write_checkpoint(folder_, checkpoint, options_.keep, options_.before_naming); }
  void wait() {
    if (writing_.valid()) writing_.get();
  }
  /// False where memory for the copy, or a thread, is refused: what needs neither is better than no checkpoint.
  bool write_beside_training(const std::shared_ptr<Checkpoint>& checkpoint) {
    try {
      for (auto& [name, tensor] : checkpoint->tensors)
        if (!tensor.is_cpu()) tensor = tensor.cpu();
        else if (tensor.use_count() > 1 || !tensor.storage().unique()) tensor = tensor.clone();  // not what other ranks sent, which is nobody's else
      writing_ = std::async(std::launch::async, [this, checkpoint] { return write(*checkpoint); });
      return true;
    } catch (const std::exception& error) {
      if (!refused_memory(error) && dynamic_cast<const std::system_error*>(&error) == nullptr) throw;
      return false;
    }
  }
  Checkpoint take() {
    Checkpoint checkpoint = trainer_.checkpoint();
    checkpoint.run = options_.run;
    return checkpoint;
  }

  Trainer& trainer_;
  std::filesystem::path folder_;
  CheckpointOptions options_;
  std::optional<double> last_;  // wall seconds at the last one, or at the first step here
  std::future<std::filesystem::path> writing_;  // last: its destructor waits for the thread, which uses the members above
};

inline Checkpoint read_checkpoint(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "checkpoint.json";
  const nlohmann::json json = detail::read_json_file(file);
  Checkpoint result;
  try {
    const auto whole = [&](const nlohmann::json& value) { return detail::whole_number<std::int64_t>(value, file.string()); };
    const auto version = whole(json.at("version"));
    require(version == detail::checkpoint_version, file.string(), ": version ", version, ", expected ", detail::checkpoint_version);
    const nlohmann::json& progress = json.at("progress");
    result.progress = {.windows = whole(progress.at("windows")), .steps = whole(progress.at("steps")), .skipped = whole(progress.at("skipped")),
                       .tokens = whole(progress.at("tokens")), .seconds = progress.at("seconds").get<double>(),
                       .optimizer_seconds = progress.at("optimizer_seconds").get<double>(), .first_loss = detail::number_or_nan(progress.at("first_loss")), .last_losses = {},
                       .position = {whole(progress.at("position").at("epoch")), whole(progress.at("position").at("sequence"))}};
    for (const nlohmann::json& loss : progress.at("last_losses")) result.progress.last_losses.push_back(detail::number_or_nan(loss));
    for (const auto& [name, number] : json.at("numbers").get_ref<const nlohmann::json::object_t&>()) result.numbers[name] = whole(number);
    json.at("header").get_to(result.header.entries);
    json.at("run").get_to(result.run.entries);
    const SafetensorsFile tensors(folder / "state.safetensors");
    const nlohmann::json& checksums = json.at("crc32");
    for (const auto& [name, crc] : checksums.items()) require(tensors.contains(name), tensors.path().string(), ": no tensor ", name, ", which checkpoint.json names");
    for (const std::string& name : tensors.names()) {
      require(checksums.contains(name), tensors.path().string(), ": tensor ", name, " is not in checkpoint.json");
      const Tensor tensor = tensors.tensor(name);
      require(detail::crc_of(tensor) == detail::whole_number<std::uint32_t>(checksums.at(name), file.string()), tensors.path().string(), ": tensor ", name, " is damaged: its checksum differs");
      result.tensors[name] = tensor;
    }
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": ", error.what());
  }
  return result;
}

}  // namespace dapt
