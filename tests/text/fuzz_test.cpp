// Eleven tokenizers against HF tokenizers over 100,000 generated strings and all pages of both corpora (tests/parity/text/record_fuzz.py).
#include <algorithm>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <unicode/normalizer2.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>
#include <zlib.h>

#include <dapt/text/hf_tokenizer.hpp>

#include "../support/paths.hpp"
#include "parity.hpp"

using dapt::HfTokenizer;
using dapt::SpecialText;
using namespace dapt::testing_support;

namespace {

std::uint32_t crc(const std::string& bytes) { return static_cast<std::uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size()))); }

std::string nfc(const std::string& text) {
  UErrorCode status = U_ZERO_ERROR;
  std::string result;
  icu::Normalizer2::getNFCInstance(status)->normalize(icu::UnicodeString::fromUTF8(text), status).toUTF8String(result);
  REQUIRE(U_SUCCESS(status));
  return result;
}

std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    U8_FWD_1_UNSAFE(text.data(), at);
    result.push_back(text.substr(begin, at - begin));
  }
  return result;
}

/// The generator of record_fuzz.py.
class Strings {
 public:
  explicit Strings(const nlohmann::json& recorded) : inserts_(recorded.at("inserts").get<std::vector<std::string>>()) {
    for (const std::string alphabet : recorded.at("alphabets")) alphabets_.push_back(characters(alphabet));
  }

  std::string operator()(std::uint64_t number) const {
    std::uint64_t draws = 0;
    const auto draw = [&](std::uint64_t n) { return dapt::splitmix64(number, draws++) % n; };
    std::string text;
    for (std::uint64_t runs = 1 + draw(14); runs > 0; --runs) {
      const auto& alphabet = alphabets_[draw(alphabets_.size())];
      for (std::uint64_t count = 1 + draw(6); count > 0; --count) text += alphabet[draw(alphabet.size())];
      if (draw(16) == 0) text += inserts_[draw(inserts_.size())];
    }
    return text;
  }

 private:
  std::vector<std::vector<std::string>> alphabets_;
  std::vector<std::string> inserts_;
};

/// The checksum of the ids of some texts; what `each` does with them is extra.
template <class Each>
std::uint32_t checksum_of_ids(const HfTokenizer& tokenizer, std::span<const std::string> texts, SpecialText special, Each each) {
  std::string bytes;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text, special);
    for (const std::int32_t id : ids)
      for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(static_cast<std::uint32_t>(id) >> shift & 0xFF));
    bytes.append(4, '\xff');
    each(ids);
  }
  return crc(bytes);
}

}  // namespace

TEST_CASE("Eleven tokenizers: ids of 100,000 generated strings, as text and as control tokens, and their decoded texts, where nothing is lost, the text itself") {
  const auto all = recorded_json("fuzz.json");
  const Strings generated(all);
  const std::size_t count = all.at("strings_a_checksum");
  std::vector<std::string> strings;
  for (std::uint64_t number = 0; number < 100'000; ++number) strings.push_back(generated(number));
  REQUIRE(all.at("tokenizers").size() == 11);
  const std::set<std::string> keeps_text = {"smollm2", "qwen2", "gpt_neox"};  // whole byte alphabet, no token strips: decoding is the inverse of encoding
  for (const auto& [name, expected] : all.at("tokenizers").items()) {
    const HfTokenizer tokenizer = name == "smollm2" ? HfTokenizer::from_folder(smollm2()) : HfTokenizer::from_file(text_parity() / (name + ".tokenizer.json"));
    for (std::size_t chunk = 0; chunk * count < strings.size(); ++chunk) {
      const auto part = std::span(strings).subspan(chunk * count, count);
      CAPTURE(name, chunk, part.front());
      std::string decoded;
      REQUIRE(checksum_of_ids(tokenizer, part, SpecialText::as_tokens, [&](const auto& ids) { (decoded += tokenizer.decode(ids)) += '\0'; }) == expected.at("as_tokens")[chunk]);
      REQUIRE(crc(decoded) == expected.at("decoded")[chunk]);
      if (!expected.contains("as_text")) continue;
      std::size_t at = 0;
      REQUIRE(checksum_of_ids(tokenizer, part, SpecialText::as_text, [&](const auto& ids) {
                const std::string& text = part[at++];
                if (keeps_text.contains(name)) REQUIRE(tokenizer.decode(ids) == (name == "smollm2" ? text : nfc(text)));
              }) == expected.at("as_text")[chunk]);
    }
  }
}

TEST_CASE("Ten tokenizers besides SmolLM2's: ids of all pages of both corpora") {
  const auto all = recorded_json("fuzz.json");
  const std::size_t count = all.at("pages_a_checksum");
  for (const auto& [corpus, texts] : all.at("texts").items()) {
    const std::vector<std::string> pages = page_texts(debian() / corpus);
    for (const auto& [name, expected] : all.at("tokenizers").items()) {
      if (!expected.contains("pages")) continue;
      const auto tokenizer = HfTokenizer::from_file(text_parity() / (name + ".tokenizer.json"));
      std::size_t compared = 0;
      for (std::size_t chunk = 0; chunk * count < pages.size() && chunk < texts.size(); ++chunk) {
        const auto part = std::span(pages).subspan(chunk * count, std::min(count, pages.size() - chunk * count));
        std::string bytes;
        for (const std::string& page : part) (bytes += page) += '\0';
        if (crc(bytes) != texts[chunk]) continue;  // the corpus may come from other versions of its packages than the recorded one
        ++compared;
        CAPTURE(corpus, name, chunk);
        REQUIRE(checksum_of_ids(tokenizer, part, SpecialText::as_tokens, [](const auto&) {}) == expected.at("pages").at(corpus)[chunk]);
      }
      INFO(corpus << ": " << compared << " of " << texts.size() << " groups of pages are those that were recorded");
      REQUIRE(compared >= texts.size() / 2);
    }
  }
}
