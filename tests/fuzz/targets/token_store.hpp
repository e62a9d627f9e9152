#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include <dapt/data/token_store.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// With the checksums that the bytes should have: they would hide all that stands behind them.
inline std::string with_checksums(std::string bytes) {
  using detail::crc_of;
  detail::TokenStoreHeader header;
  if (bytes.size() < sizeof header) return bytes;
  std::memcpy(&header, bytes.data(), sizeof header);
  const detail::TokenStoreLayout at(header);
  const auto sum = [&](std::uint64_t begin, std::uint64_t end, std::uint32_t before) { return begin <= end && end <= bytes.size() ? crc_of(bytes.data() + begin, end - begin) : before; };
  for (std::uint64_t block = 0, begin = at.ids; begin < at.ids + at.ids_bytes && at.sums + 4 * block + 4 <= bytes.size(); ++block, begin += detail::ids_block_bytes) {
    const std::uint32_t of_ids = sum(begin, std::min(begin + detail::ids_block_bytes, at.ids + at.ids_bytes), 0);
    std::memcpy(bytes.data() + at.sums + 4 * block, &of_ids, sizeof of_ids);
  }
  header.sums_sum = sum(at.sums, at.documents, header.sums_sum);
  header.documents_sum = sum(at.documents, at.works, header.documents_sum);
  header.works_sum = sum(at.works, at.held_out, header.works_sum);
  header.held_out_sum = sum(at.held_out, at.description, header.held_out_sum);
  header.description_sum = sum(at.description, at.end, header.description_sum);
  header.header_sum = crc_of(&header, offsetof(detail::TokenStoreHeader, header_sum));
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

inline void token_store(std::string_view bytes) {
  static const ScratchFile scratch;
  const TokenStore store(scratch.holding(with_checksums(std::string(bytes))), {1, 2});
  std::int64_t sum = 0;
  for (const StoredPage& page : store.pages()) {
    sum += static_cast<std::int64_t>(page.work.size()) + page.page % 3;
    for (const std::int32_t id : page.input_ids) sum += id;
  }
  volatile std::int64_t read = sum;
  (void)read;
  store.held_out();
}

}  // namespace dapt::fuzz
