#include <dapt/report/progress_line.hpp>

#include <cstdio>
#include <limits>
#include <memory>
#include <string>

#include <catch2/catch.hpp>

namespace {

struct Screen {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::tmpfile(), &std::fclose};
  double now = 100;

  dapt::ProgressLineOptions options(std::string what, std::optional<bool> terminal) {
    return {.what = std::move(what), .stream = file.get(), .terminal = terminal, .seconds = [this] { return now; }};
  }
  std::string text() const {
    std::string all;
    std::rewind(file.get());
    for (int c = std::fgetc(file.get()); c != EOF; c = std::fgetc(file.get())) all.push_back(static_cast<char>(c));
    return all;
  }
};

std::string drawn(const std::string& line) { return "\r\x1b[2K\x1b[?7l" + line + "\x1b[?7h"; }

dapt::StepRecord record(std::int64_t step, double fraction) {
  return {.step = step, .loss = 2.5, .tokens_per_second = 1234.4, .seconds = 60, .phase_seconds = {}, .fraction = fraction};
}

}  // namespace

TEST_CASE("progress line: says what, of how much, loss, speed and time left, in one place") {
  Screen screen;
  {
    dapt::ProgressLine line(screen.options("LoRA rank 8", true));
    line.observe(record(10, 0.25));
    screen.now += 0.05;
    line.observe(record(11, 0.26));  // too early to draw
    screen.now += 0.06;
    line.observe(record(1200, 0.5));
  }
  REQUIRE(screen.text() == drawn("LoRA rank 8  25 %  step 10  loss 2.500  1,234 tokens/s  3:00 left") +
                             drawn("LoRA rank 8  50 %  step 1,200  loss 2.500  1,234 tokens/s  1:00 left") + "\n");
}

TEST_CASE("progress line: the newest state stays on the screen when it ends") {
  Screen screen;
  {
    dapt::ProgressLine line(screen.options("", true));
    line.observe(record(1, 0.25));
    line.observe(record(2, 0.5));
  }
  REQUIRE(screen.text() == drawn("25 %  step 1  loss 2.500  1,234 tokens/s  3:00 left") + drawn("50 %  step 2  loss 2.500  1,234 tokens/s  1:00 left") + "\n");
}

TEST_CASE("progress line: the last step is drawn at once and has no time left") {
  Screen screen;
  dapt::ProgressLine line(screen.options("x", true));
  line.observe(record(1, 0.9));
  line.observe(record(2, 1.0));
  REQUIRE(screen.text().ends_with(drawn("x  100 %  step 2  loss 2.500  1,234 tokens/s")));
}

TEST_CASE("progress line: work without steps") {
  Screen screen;
  dapt::ProgressLine line(screen.options("questions", true));
  screen.now += 10;
  line.update(1000, 4726, "LoRA rank 8");
  line.update(4726, 4726);
  line.finish();
  line.update(7, 0);
  REQUIRE(screen.text() == drawn("questions  1,000 of 4,726  21 %  LoRA rank 8  37 s left") + drawn("questions  4,726 of 4,726  100 %") + "\n" + drawn("questions  7"));
}

TEST_CASE("progress line: a loss that is no number and a skipped step are told") {
  Screen screen;
  dapt::ProgressLine line(screen.options("x", true));
  dapt::StepRecord bad = record(1, 0);
  bad.loss = std::numeric_limits<double>::quiet_NaN();
  line.observe(bad);
  screen.now += 1;
  dapt::StepRecord skipped = record(2, 0);
  skipped.skipped = true;
  skipped.skipped_steps = 1;
  line.observe(skipped);
  REQUIRE(screen.text() == drawn("x  0 %  step 1  loss not finite  1,234 tokens/s") + drawn("x  0 %  step 2  skipped, nothing changed  1,234 tokens/s  1 skipped"));
}

TEST_CASE("progress line: text from outside cannot move the cursor") {
  Screen screen;
  dapt::ProgressLine line(screen.options("a\r\x1b[2Jb", true));
  line.update(1, 0, "c\nd 日本");
  REQUIRE(screen.text() == drawn("a  [2Jb  1  c d 日本"));
}

TEST_CASE("progress line: quiet where the output is no terminal") {
  Screen screen;
  {
    dapt::ProgressLine line(screen.options("x", std::nullopt));  // a file is no terminal
    for (int step = 1; step <= 10; ++step, screen.now += 100) line.observe(record(step, step / 10.0));
  }
  REQUIRE(screen.text().empty());
}

TEST_CASE("progress line: plain lines for log files where asked for") {
  Screen screen;
  {
    auto options = screen.options("x", false);
    options.plain_line_seconds = 30;
    dapt::ProgressLine line(options);
    for (int step = 1; step <= 7; ++step, screen.now += 10) line.observe(record(step, step / 8.0));
  }
  REQUIRE(screen.text() == "x  50 %  step 4  loss 2.500  1,234 tokens/s  1:00 left\nx  88 %  step 7  loss 2.500  1,234 tokens/s  9 s left\n");
}
