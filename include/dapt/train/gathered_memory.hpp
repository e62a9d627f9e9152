// Memory for what ranks gather, had before they begin: one that was refused it in their midst would leave the others waiting.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include <dapt/core/error.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/core/ranks.hpp>

namespace dapt::detail {

/// "rank 1: out of memory, 54 MiB more could not be had for ..."
inline std::string refused_on(const Ranks& ranks, const std::string& refused, std::string_view what) {
  return "rank " + std::to_string(ranks.rank()) + ": out of memory, " + refused + " could not be had for " + std::string(what);
}

/// reserve() gets this rank the memory for `what`. Where any rank is refused it, all throw the same dapt::Error, and stay together. All call it alike.
template <class Reserve>
void reserve_together(Ranks& ranks, std::string_view what, Reserve reserve) {
  std::string failure;
  try {
    reserve();
  } catch (const std::exception& error) {
    const auto refused = refused_memory(error);
    if (!refused) throw;
    failure = refused_on(ranks, *refused, what);
  }
  for (const std::string& of_rank : ranks.gather(failure)) require(of_rank.empty(), of_rank);
}

/// work(), in which ranks do things together. Memory that this rank is refused there parts it from the others, which wait for it.
template <class Work>
void work_together(Ranks& ranks, std::string_view what, Work work) {
  try {
    work();
  } catch (const std::exception& error) {
    if (const auto refused = refused_memory(error)) fail<RanksParted>(refused_on(ranks, *refused, what));
    throw;
  }
}

}  // namespace dapt::detail
