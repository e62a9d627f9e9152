#pragma once

#include <string_view>

#include <dapt/data/read_pages.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// JSON lines under each policy, plain or compressed; and the same bytes as the text of one page.
inline void pages(std::string_view bytes) {
  static const ScratchFile scratch;
  static const ScratchFolder folder;
  const auto read = [](const std::filesystem::path& path, BadInput policy) {
    for (PageReader reader(path, {.policy = policy, .max_page_bytes = 1 << 16, .threads = 1}); reader.next();) {
    }
  };
  const auto try_to_read = [&](const std::filesystem::path& path, BadInput policy) {
    try {
      read(path, policy);
    } catch (const Error&) {  // the next policy may go on
    }
  };
  for (const BadInput policy : {BadInput::skip, BadInput::replace}) try_to_read(scratch.holding(bytes), policy);
  try_to_read(folder.holding("page.txt", bytes).parent_path(), BadInput::replace);
  read(scratch.holding(bytes), BadInput::stop);
}

}  // namespace dapt::fuzz
