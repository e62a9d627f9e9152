// One of several ranks that have nothing to say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <dapt/core/ranks.hpp>

namespace dapt::testing_support {

/// Of a sum it gets its own part; what others would send never comes.
struct MuteRanks final : Ranks {
  int own, all;
  MuteRanks(int rank_of_it, int size_of_all) : own(rank_of_it), all(size_of_all) {}
  int rank() const override { return own; }
  int size() const override { return all; }
  std::string describe() const override { return "mute"; }
  Pending sum(Tensor, std::string_view) override { return [] {}; }
  Pending sum_to(Tensor, int, std::string_view) override { return [] {}; }
  Pending broadcast(Tensor, int, std::string_view) override { return [] {}; }
  std::vector<std::string> gather(const std::string& text) override { return std::vector<std::string>(static_cast<std::size_t>(all), text); }
};

}  // namespace dapt::testing_support
