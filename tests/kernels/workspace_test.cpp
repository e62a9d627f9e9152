#include <cstddef>
#include <cstdint>
#include <thread>

#include <catch2/catch.hpp>

#include <dapt/kernels/cpu/workspace.hpp>

using dapt::detail::Workspace;

TEST_CASE("A thread has one workspace, whatever elements it is asked for, and another thread another", "[kernels]") {
  const Workspace<float, std::uint8_t> two{{100, 7}};
  REQUIRE(two.bytes() == 448 + 64);
  const auto [floats, bytes] = two.take();
  const auto* begin = reinterpret_cast<std::byte*>(floats);
  REQUIRE(reinterpret_cast<std::uintptr_t>(begin) % 64 == 0);
  REQUIRE(reinterpret_cast<std::byte*>(bytes) == begin + 448);
  const auto [doubles] = Workspace<double>{{30}}.take();
  REQUIRE(reinterpret_cast<std::byte*>(doubles) == begin);
  const std::byte* other = nullptr;
  std::thread([&other] { other = reinterpret_cast<std::byte*>(std::get<0>(Workspace<float, std::uint8_t>{{100, 7}}.take())); }).join();
  REQUIRE(other != begin);
}
