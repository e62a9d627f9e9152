#include "page_writer.hpp"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>

#include <nlohmann/json.hpp>

#include <dapt/data/parallel_for.hpp>

namespace dapt_program {

void PageWriter::add(const dapt::Page& page) {
  constexpr std::size_t pages_at_once = 256;
  pages_.push_back(page);
  if (pages_.size() == pages_at_once) write();
}

void PageWriter::write() {
  std::vector<std::string> lines(pages_.size());
  dapt::parallel_for(std::ssize(pages_), threads_, [&](std::int64_t i) {
    const dapt::Page& page = pages_[i];
    nlohmann::ordered_json line{{"work", page.work}, {"page", page.page}, {"text", page.text}};
    if (page.score) line["score"] = *page.score;
    lines[i] = line.dump() + '\n';
  });
  for (const std::string& line : lines) file_.write(line);
  pages_.clear();
}

void PageWriter::commit() {
  write();
  file_.commit();
}

}  // namespace dapt_program
