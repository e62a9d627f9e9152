// TensorBoard event files: TFRecord framing (little-endian length, masked CRC-32C of it, payload, masked CRC-32C of that) around
// protocol-buffer messages tensorflow.Event { 1 wall_time: double, 2 step: int64, 3 file_version: string, 5 summary } with
// tensorflow.Summary { 1 value { 1 tag: string, 2 simple_value: float } }. Five fields are written by hand rather than by libprotobuf.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include <dapt/concepts/observer.hpp>
#include <dapt/core/error.hpp>

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

}  // namespace tensorboard

struct TensorBoardOptions {
  std::function<double()> wall_time{};  ///< seconds since 1970; default: the system's clock
};

/// Observer that writes an event file into `folder`: `tensorboard --logdir folder` (or the folder above, to compare runs).
class TensorBoard {
 public:
  /// Makes the folder where it is missing; throws dapt::Error where it cannot be written.
  explicit TensorBoard(const std::filesystem::path& folder, TensorBoardOptions options = {});

  /// train/loss, train/lr, train/grad_norm, train/tokens, speed/tokens_per_second, memory/peak_bytes, seconds/<phase>.
  /// A skipped step has no loss and no gradient norm.
  void observe(const StepRecord& record);

  /// Any further values, e.g. those of metrics: scalars({{"eval/qa_exact", 0.32}}, step).
  void scalars(const tensorboard::Scalars& values, std::int64_t step) { write(tensorboard::scalar_event(wall_time_(), step, values)); }

  const std::filesystem::path& path() const { return path_; }

 private:
  void write(std::string_view event);

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::function<double()> wall_time_;
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

inline TensorBoard::TensorBoard(const std::filesystem::path& folder, TensorBoardOptions options) : wall_time_(std::move(options.wall_time)) {
  if (!wall_time_) wall_time_ = [] { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); };
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, folder.string(), ": cannot make the folder: ", error.message());

  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  static std::atomic<int> number = 0;  // several files of one process in the same second
  const double now = wall_time_();
  path_ = folder / ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now)) + "." + host + "." + std::to_string(getpid()) + "." +
                    std::to_string(number++));
  file_.reset(std::fopen(path_.c_str(), "wb"));
  require(file_ != nullptr, path_.string(), ": cannot write: ", std::strerror(errno));
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

inline void TensorBoard::write(std::string_view event) {
  const std::string bytes = tensorboard::record(event);
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size() && std::fflush(file_.get()) == 0;
  require(written, path_.string(), ": cannot write: ", std::strerror(errno));
}

static_assert(check_observer<TensorBoard>());

}  // namespace dapt
