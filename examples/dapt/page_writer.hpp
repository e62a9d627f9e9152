// Pages as a file.
#pragma once

#include <vector>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/page.hpp>

#include "options.hpp"

namespace dapt_program {

/// Writes pages as JSON lines that read_pages reads. The file appears when all of it is written.
class PageWriter {
 public:
  PageWriter(const fs::path& file, int threads) : file_(file), threads_(threads) {}
  void add(const dapt::Page& page);
  void commit();

 private:
  void write();

  dapt::AtomicFile file_;
  int threads_;
  std::vector<dapt::Page> pages_;
};

}  // namespace dapt_program
