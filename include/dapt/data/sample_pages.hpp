// A part of a corpus that fits into memory, for what is fitted to pages: the same part whatever the order of the files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include <dapt/core/hash.hpp>
#include <dapt/core/page.hpp>

namespace dapt {

struct PageSample {
  std::vector<Page> pages;      ///< in the order of reading
  std::int64_t read = 0;        ///< pages in all
  bool whole() const { return std::ssize(pages) == read; }
};

/// Of `pages`, the ones with the smallest hashes of their texts, so many that the texts together have at most `max_bytes`; all of them where they fit. Of
/// equal texts, all or none.
template <class Pages>
PageSample sample_pages(Pages&& pages, std::size_t max_bytes) {
  struct Drawn {
    std::uint64_t draw;
    std::int64_t number;
    Page page;
  };
  const auto before = [](const Drawn& a, const Drawn& b) { return std::tie(a.draw, a.number) < std::tie(b.draw, b.number); };
  std::vector<Drawn> heap;  // the largest draw on top
  std::size_t bytes = 0;
  std::uint64_t limit = ~std::uint64_t{0};  // texts with this draw and larger ones do not fit
  PageSample sample;
  for (const Page& page : pages) {
    const std::uint64_t draw = splitmix64(fnv1a(page.text));
    ++sample.read;
    if (draw >= limit) continue;
    heap.push_back({draw, sample.read, page});
    std::push_heap(heap.begin(), heap.end(), before);
    bytes += page.text.size();
    if (bytes > max_bytes) limit = heap.front().draw;
    while (!heap.empty() && heap.front().draw >= limit) {
      bytes -= heap.front().page.text.size();
      std::pop_heap(heap.begin(), heap.end(), before);
      heap.pop_back();
      if (bytes > max_bytes) limit = heap.front().draw;
    }
  }
  std::sort(heap.begin(), heap.end(), [](const Drawn& a, const Drawn& b) { return a.number < b.number; });
  for (Drawn& drawn : heap) sample.pages.push_back(std::move(drawn.page));
  return sample;
}

}  // namespace dapt
