#pragma once

#include <string_view>

#include <dapt/data/page_labels.hpp>
#include <dapt/data/terms.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// Lists of terms, by line and by JSON line, and labels of pages.
inline void word_lists(std::string_view bytes) {
  static const ScratchFolder folder;
  for (const char* name : {"terms.txt", "terms.jsonl"}) {
    try {
      read_terms({folder.holding(name, bytes)}).count("a text of some words");
    } catch (const Error&) {  // the file may be of another of these kinds
    }
  }
  read_page_labels(folder.holding("labels.jsonl", bytes));
}

}  // namespace dapt::fuzz
