// The targets of one table as libFuzzer calls them; the environment variable DAPT_FUZZ_TARGET names the one that is run. What is neither a value nor dapt::Error ends the process.
#include DAPT_FUZZ_TABLE

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const dapt::fuzz::Target target = [] {
    const char* name = std::getenv("DAPT_FUZZ_TARGET");
    const auto& all = dapt::fuzz::DAPT_FUZZ_TARGETS;
    const auto* found = std::ranges::find(all, std::string_view(name == nullptr ? "" : name), &dapt::fuzz::Target::name);
    if (found != std::end(all)) return *found;
    std::fputs("DAPT_FUZZ_TARGET names none of:", stderr);
    for (const auto& known : all) std::fprintf(stderr, " %s", known.name.data());
    std::fputs("\n", stderr);
    std::exit(2);
  }();
  try {
    target.read({reinterpret_cast<const char*>(data), size});
  } catch (const dapt::Error&) {
  }
  return 0;
}
