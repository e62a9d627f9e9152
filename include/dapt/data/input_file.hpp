// The bytes of a file, plain, gzip or zstd, told apart by how the file begins and not by its name. Memory does not grow with the file, but with the window of a zstd file: over
// 8 MiB (128 MiB, 2 GiB) only where it was compressed so (`--ultra`, `--long`).
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include <dapt/core/error.hpp>

namespace dapt {

namespace detail {

/// gzip (RFC 1952). A file may hold several members one after the other, as `cat a.gz b.gz` makes it. Zeros behind a member are padding, as of tapes and disks with blocks of one size.
class GzipDecoder {
 public:
  static constexpr const char* name = "gzip";

  GzipDecoder() : stream_(new z_stream{}) { require(inflateInit2(stream_.get(), 15 + 16) == Z_OK, "zlib: cannot make a decoder"); }

  /// Takes bytes from `input`, gives as many as fit at `output`; the reason where the data is no gzip.
  const char* decode(std::string_view& input, char* output, std::size_t& room) {
    if (!inside_) {
      if (stream_->total_in > 0) input.remove_prefix(std::min(input.find_first_not_of('\0'), input.size()));
      if (input.empty()) return nullptr;
      inflateReset(stream_.get());
      inside_ = true;
    }
    stream_->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));  // zlib reads only
    stream_->avail_in = static_cast<uInt>(input.size());
    stream_->next_out = reinterpret_cast<Bytef*>(output);
    stream_->avail_out = static_cast<uInt>(room);
    const int code = inflate(stream_.get(), Z_NO_FLUSH);
    input.remove_prefix(input.size() - stream_->avail_in);
    room = stream_->avail_out;
    inside_ = code != Z_STREAM_END;
    if (code == Z_OK || code == Z_BUF_ERROR || code == Z_STREAM_END) return nullptr;
    return stream_->msg != nullptr ? stream_->msg : "no gzip data";
  }
  bool inside() const { return inside_; }

 private:
  struct End {
    void operator()(z_stream* stream) const {
      inflateEnd(stream);
      delete stream;
    }
  };
  std::unique_ptr<z_stream, End> stream_;  // on the heap: zlib keeps its address
  bool inside_ = false;                    // a member that has not ended
};

/// Zstandard (RFC 8878), any number of frames, of any window (`zstd --long=31`): it takes the memory that the file asks for.
class ZstdDecoder {
 public:
  static constexpr const char* name = "zstd";

  ZstdDecoder() : stream_(ZSTD_createDStream()) {
    require(stream_ != nullptr, "zstd: cannot make a decoder");
    const std::size_t code = ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
    require(!ZSTD_isError(code), "zstd: ", ZSTD_getErrorName(code));
  }

  const char* decode(std::string_view& input, char* output, std::size_t& room) {
    ZSTD_inBuffer in{input.data(), input.size(), 0};
    ZSTD_outBuffer out{output, room, 0};
    const std::size_t code = ZSTD_decompressStream(stream_.get(), &out, &in);
    input.remove_prefix(in.pos);
    room -= out.pos;
    inside_ = code != 0;
    return ZSTD_isError(code) ? ZSTD_getErrorName(code) : nullptr;
  }
  bool inside() const { return inside_; }

 private:
  struct End {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  std::unique_ptr<ZSTD_DStream, End> stream_;
  bool inside_ = false;
};

struct Plain {};

}  // namespace detail

class InputFile {
 public:
  /// Throws dapt::Error where the file cannot be read, and for kinds of files that hold no lines of text (Parquet, zip, xz, bzip2).
  explicit InputFile(std::filesystem::path path);

  /// The next line without its LF; false at the end. Of a line longer than `max_bytes`, only max_bytes + 1 bytes are kept. Throws where the
  /// file cannot be read, and where compressed data is damaged or ends too early.
  bool read_line(std::string& line, std::size_t max_bytes) { return read_until('\n', line, max_bytes); }

  /// All that is left, cut as `read_line` cuts.
  std::string read_rest(std::size_t max_bytes);

  /// Taken so far, after decompression.
  std::int64_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t block_bytes = std::size_t{1} << 18;

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  bool fill();
  void read_block();
  bool read_until(char end, std::string& text, std::size_t max_bytes);
  [[noreturn]] void fail_to_read() const { fail("cannot read ", path_.string(), ": ", errno != 0 ? std::strerror(errno) : "unknown error"); }

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::variant<detail::Plain, detail::GzipDecoder, detail::ZstdDecoder> decoder_;
  std::vector<char> raw_buffer_, decoded_buffer_;
  std::string_view raw_;    // read and not decoded
  std::string_view ready_;  // decoded and not taken
  std::int64_t raw_bytes_ = 0, bytes_ = 0;
};

inline InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code no_size;
  const std::uintmax_t size = std::filesystem::file_size(path_, no_size);  // of a pipe there is none
  raw_buffer_.resize(no_size || size == 0 ? block_bytes : std::min<std::uintmax_t>(block_bytes, size + 1));  // a folder of a million small files makes no large block for each
  errno = 0;
  file_.reset(std::fopen(path_.c_str(), "rb"));
  if (!file_) fail_to_read();
  std::setbuf(file_.get(), nullptr);  // blocks are large already
  read_block();                       // a folder or a faulty disk opens, but does not read

  using namespace std::string_view_literals;
  const auto begins = [this](std::string_view magic) { return raw_.starts_with(magic); };
  if (begins("\x1F\x8B"sv)) decoder_.emplace<detail::GzipDecoder>();
  if (begins("\x28\xB5\x2F\xFD"sv) || (raw_.size() >= 4 && raw_.substr(1, 3) == "\x2A\x4D\x18"sv && (raw_[0] & 0xF0) == 0x50)) decoder_.emplace<detail::ZstdDecoder>();
  require(!begins("PAR1\x15"sv), path_.string(), ": is a Parquet file, expected JSON lines; convert it with: python3 -c \"import pandas; pandas.read_parquet('",
          path_.filename().string(), "').to_json('", path_.stem().string(), ".jsonl', orient='records', lines=True, force_ascii=False)\"");
  const char* kind = begins("PK\x03\x04"sv) ? "a zip archive" : begins("\xFD\x37zXZ\0"sv) ? "xz data" : nullptr;
  if (begins("BZh"sv) && raw_.substr(std::min<std::size_t>(4, raw_.size())).starts_with("1AY&SY")) kind = "bzip2 data";
  require(kind == nullptr, path_.string(), ": is ", kind != nullptr ? kind : "", ", expected text, gzip or zstd; unpack it first");
  if (!std::holds_alternative<detail::Plain>(decoder_)) decoded_buffer_.resize(block_bytes);
}

inline void InputFile::read_block() {
  errno = 0;
  const std::size_t count = std::fread(raw_buffer_.data(), 1, raw_buffer_.size(), file_.get());
  if (count == 0 && std::ferror(file_.get()) != 0) fail_to_read();
  raw_bytes_ += static_cast<std::int64_t>(count);
  raw_ = {raw_buffer_.data(), count};
}

/// Makes more bytes ready; false at the end of the file.
inline bool InputFile::fill() {
  return std::visit(
      [this](auto& decoder) {
        using Decoder = std::remove_cvref_t<decltype(decoder)>;
        if (raw_.empty()) read_block();
        if constexpr (std::is_same_v<Decoder, detail::Plain>) {
          ready_ = std::exchange(raw_, {});
          return !ready_.empty();
        } else {
          for (;;) {
            const bool file_ended = raw_.empty();
            if (file_ended && !decoder.inside()) return false;
            std::size_t room = decoded_buffer_.size();
            const char* problem = decoder.decode(raw_, decoded_buffer_.data(), room);
            require(problem == nullptr, path_.string(), ": damaged ", Decoder::name, " data before byte ", raw_bytes_ - static_cast<std::int64_t>(raw_.size()), " of the file: ", problem);
            ready_ = {decoded_buffer_.data(), decoded_buffer_.size() - room};
            if (!ready_.empty()) return true;
            require(!(file_ended && decoder.inside()), path_.string(), ": the ", Decoder::name, " data ends too early, after ", raw_bytes_, " bytes of the file: it was cut off");
            if (raw_.empty()) read_block();
          }
        }
      },
      decoder_);
}

inline bool InputFile::read_until(char end, std::string& text, std::size_t max_bytes) {
  text.clear();
  const auto keep = [&](std::string_view part) { text.append(part.substr(0, std::min(part.size(), max_bytes + 1 - text.size()))); };
  bool any = false;
  while (!ready_.empty() || fill()) {
    any = true;
    const std::size_t found = ready_.find(end);
    keep(ready_.substr(0, found));
    const std::size_t taken = found == std::string_view::npos ? ready_.size() : found + 1;
    bytes_ += static_cast<std::int64_t>(taken);
    ready_.remove_prefix(taken);
    if (found != std::string_view::npos) break;
  }
  return any;
}

inline std::string InputFile::read_rest(std::size_t max_bytes) {
  std::string text;
  while (text.size() <= max_bytes && (!ready_.empty() || fill())) {
    text.append(ready_.substr(0, max_bytes + 1 - text.size()));
    bytes_ += static_cast<std::int64_t>(ready_.size());
    ready_ = {};
  }
  return text;
}

}  // namespace dapt
