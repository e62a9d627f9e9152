// What a corpus is made of: pages of text, and the same pages as token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dapt {

/// One page of one work, as read from a file.
struct Page {
  std::string work;             ///< the document that the page belongs to
  std::int64_t page = 0;        ///< its number inside the work, as the file says
  std::string text;             ///< UTF-8
  std::optional<double> score;  ///< larger is more of the domain; absent until a file or a scorer gives it
  std::string source = {};      ///< where a reader found it, as file:line, or the file of which it is the whole; for messages only
};

/// One page as token ids. A page is one document: nothing of its neighbours is in it.
struct TokenizedPage {
  std::string work;
  std::int64_t page = 0;
  std::vector<std::int32_t> input_ids;  ///< without separator; pack() puts it between documents
};

}  // namespace dapt
