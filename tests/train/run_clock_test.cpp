#include <dapt/train/run_clock.hpp>

#include <chrono>
#include <thread>

#include <catch2/catch.hpp>

TEST_CASE("a run's clock goes on from where it stood, and stands still in a pause") {
  const auto sleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  dapt::detail::RunClock clock(100);
  sleep();
  {
    const auto pause = clock.pause();
    sleep();
  }
  {
    const auto pause = clock.pause();
    sleep();
  }
  const dapt::detail::RunTime time = clock.now();
  REQUIRE(time.wall_seconds >= 0.060);
  REQUIRE(time.seconds >= 100.020);
  REQUIRE(time.seconds <= 100 + time.wall_seconds - 0.040 + 1e-9);
}
