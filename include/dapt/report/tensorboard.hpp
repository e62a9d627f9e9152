// TensorBoard event files: TFRecord framing (little-endian length, masked CRC-32C of it, payload, masked CRC-32C of that) around
// protocol-buffer messages tensorflow.Event { 1 wall_time: double, 2 step: int64, 3 file_version: string, 5 summary } with
// tensorflow.Summary { 1 value { 1 tag: string, 2 simple_value: float } }. Five fields are written by hand rather than by libprotobuf.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <dapt/concepts/observer.hpp>
#include <dapt/core/append_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>

namespace dapt {

namespace tensorboard {

/// CRC-32C (Castagnoli polynomial, reflected 0x82F63B78) of RFC 3720, appendix B.4.
inline std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
      entries[byte] = value;
    }
    return entries;
  }();
  std::uint32_t crc = ~0u;
  for (const unsigned char byte : bytes) crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

/// TFRecord rotates and shifts the checksum, so that the checksum of data that holds checksums stays sound.
inline std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

namespace detail {

template <class Integer>
void append_little_endian(std::string& out, Integer value) {
  for (std::size_t byte = 0; byte < sizeof(Integer); ++byte) out.push_back(static_cast<char>((value >> (8 * byte)) & 0xFF));
}

inline void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7F) | 0x80));
  out.push_back(static_cast<char>(value));
}

inline void append_bytes(std::string& out, int field, std::string_view bytes) {
  append_varint(out, static_cast<std::uint64_t>(field) << 3 | 2);
  append_varint(out, bytes.size());
  out.append(bytes);
}

inline void append_wall_time(std::string& out, double wall_time) {
  append_varint(out, 1 << 3 | 1);
  append_little_endian(out, std::bit_cast<std::uint64_t>(wall_time));
}

}  // namespace detail

using Scalars = std::vector<std::pair<std::string, double>>;  ///< tag -> value

/// The first message of every event file.
inline std::string version_event(double wall_time) {
  std::string event;
  detail::append_wall_time(event, wall_time);
  detail::append_bytes(event, 3, "brain.Event:2");
  return event;
}

/// tensorflow.Event with one Summary value for each scalar. `wall_time` in seconds since 1970.
inline std::string scalar_event(double wall_time, std::int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string entry;
    detail::append_bytes(entry, 1, tag);
    detail::append_varint(entry, 2 << 3 | 5);
    detail::append_little_endian(entry, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
    detail::append_bytes(summary, 1, entry);
  }
  std::string event;
  detail::append_wall_time(event, wall_time);
  if (step != 0) {  // proto3 leaves out a field that holds its default
    detail::append_varint(event, 2 << 3 | 0);
    detail::append_varint(event, static_cast<std::uint64_t>(step));
  }
  detail::append_bytes(event, 5, summary);
  return event;
}

/// One TFRecord.
inline std::string record(std::string_view payload) {
  std::string out;
  detail::append_little_endian(out, static_cast<std::uint64_t>(payload.size()));
  detail::append_little_endian(out, masked_crc32c(out));
  out.append(payload);
  detail::append_little_endian(out, masked_crc32c(payload));
  return out;
}

/// The step of an encoded tensorflow.Event, 0 where it has none; -1 where the bytes are no such message.
inline std::int64_t step_of(std::string_view event) {
  std::int64_t step = 0;
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && !event.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(event.front());
      event.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  };
  while (!event.empty()) {
    const auto key = varint();
    if (!key) return -1;
    std::uint64_t size = 0;  // of what follows and is not looked at
    switch (*key & 7) {
      case 0: {
        const auto value = varint();
        if (!value) return -1;
        if (*key >> 3 == 2) step = static_cast<std::int64_t>(*value);
        break;
      }
      case 1: size = 8; break;
      case 2: {
        const auto length = varint();
        if (!length) return -1;
        size = *length;
        break;
      }
      case 5: size = 4; break;
      default: return -1;
    }
    if (size > event.size()) return -1;
    event.remove_prefix(size);
  }
  return step;
}

/// Cuts the event files of `folder` off before the first event of a step after `last_step`, or the first record that is not whole; a file without any step is removed. Throws dapt::Error
/// where a file cannot be changed.
inline void keep_steps(const std::filesystem::path& folder, std::int64_t last_step) {
  std::vector<std::filesystem::path> files;
  std::error_code error, ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with("events.out.tfevents.") && entry.is_regular_file(ignored)) files.push_back(entry.path());
  for (const std::filesystem::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    const std::uintmax_t size = std::filesystem::file_size(file);
    std::uintmax_t kept = 0;
    bool has_step = false;
    for (std::string head(12, '\0'); in.read(head.data(), 12);) {
      std::uint64_t length = 0;
      for (int byte = 7; byte >= 0; --byte) length = length << 8 | static_cast<unsigned char>(head[static_cast<std::size_t>(byte)]);
      if (length > size - kept) break;
      std::string payload(length, '\0'), tail(4, '\0');
      if (!in.read(payload.data(), static_cast<std::streamsize>(length)) || !in.read(tail.data(), 4) || record(payload) != head + payload + tail) break;
      const std::int64_t step = step_of(payload);
      if (step < 0 || step > last_step) break;
      has_step = has_step || step > 0;
      kept += 16 + length;
    }
    in.close();
    if (!has_step) std::filesystem::remove(file, error);
    else if (kept < size) std::filesystem::resize_file(file, kept, error);
    require(!error, file.string(), ": cannot be cut back to step ", last_step, ": ", error.message());
  }
}

}  // namespace tensorboard

struct TensorBoardOptions {
  std::int64_t last_step = -1;          ///< of a run that goes on from there: what the folder's event files hold of later steps is cut off; -1: they stay as they are
  std::function<double()> wall_time{};  ///< seconds since 1970; default: the system's clock
};

/// Observer that writes an event file into `folder`: `tensorboard --logdir folder` (or the folder above, to compare runs).
class TensorBoard {
 public:
  /// Makes the folder where it is missing; throws dapt::Error where it cannot be written.
  [[gnu::visibility("default")]] explicit TensorBoard(const std::filesystem::path& folder, TensorBoardOptions options = {});  // numbers the files of the whole process

  /// train/loss, train/lr, train/grad_norm, train/tokens, speed/tokens_per_second, memory/peak_bytes, seconds/<phase>.
  /// A skipped step has no loss and no gradient norm. Throws dapt::Error where that could not be written; it is then written before what comes next.
  void observe(const StepRecord& record);

  /// Any further values, e.g. those of metrics: scalars({{"eval/qa_exact", 0.32}}, step).
  void scalars(const tensorboard::Scalars& values, std::int64_t step) { write(tensorboard::scalar_event(wall_time_(), step, values)); }

  /// Tries again what could not be written, and flushes to the disk.
  void finish() { file_->flush(); }

  /// Flushes the events that are written, also while another thread observes, which tells at the next step if that failed.
  void flush_written() noexcept { file_->flush_written(); }

  const std::filesystem::path& path() const { return path_; }

 private:
  void write(std::string_view event) { file_->append(tensorboard::record(event)); }

  std::function<double()> wall_time_;
  std::filesystem::path path_;
  std::optional<AppendFile> file_;
};

inline TensorBoard::TensorBoard(const std::filesystem::path& folder, TensorBoardOptions options) : wall_time_(std::move(options.wall_time)) {
  if (!wall_time_) wall_time_ = [] { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); };
  detail::make_folder(folder);

  if (options.last_step >= 0) tensorboard::keep_steps(folder, options.last_step);

  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  static std::atomic<int> number = 0;  // several files of one process in the same second
  const double now = wall_time_();
  path_ = folder / ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now)) + "." + host + "." + std::to_string(getpid()) + "." +
                    std::to_string(number++));
  file_.emplace(path_);
  write(tensorboard::version_event(now));
}

inline void TensorBoard::observe(const StepRecord& record) {
  tensorboard::Scalars values;
  if (!record.skipped) values = {{"train/loss", record.loss}, {"train/grad_norm", record.grad_norm}};
  values.insert(values.end(), {{"train/lr", record.lr},
                               {"train/tokens", static_cast<double>(record.tokens)},
                               {"speed/tokens_per_second", record.tokens_per_second},
                               {"memory/peak_bytes", static_cast<double>(record.peak_memory_bytes)}});
  for (const auto& [phase, seconds] : record.phase_seconds) values.emplace_back("seconds/" + phase, seconds);
  scalars(values, record.step);
}

static_assert(check_observer<TensorBoard>());

}  // namespace dapt
