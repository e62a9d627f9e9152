#include <dapt/data/default_filter.hpp>
#include <dapt/data/scorers/lm_cross_entropy_scorer.hpp>
#include <dapt/data/scorers/term_density_scorer.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <catch2/catch.hpp>
#include <zlib.h>

#include <dapt/core/hash.hpp>
#include <dapt/testing/toy.hpp>

#include "support/paths.hpp"

using dapt::NgramCrossEntropyScorer;
using dapt::Page;
using dapt::Terms;

namespace {

std::vector<Page> pages_of(const std::vector<std::string>& texts) {
  std::vector<Page> pages;
  for (const std::string& text : texts) pages.push_back({"w", static_cast<std::int64_t>(pages.size()), text, {}});
  return pages;
}

std::vector<std::uint64_t> words(std::string_view text) {
  std::vector<std::uint64_t> words;
  dapt::for_each_word(text, [&](std::uint64_t word) { words.push_back(word); });
  return words;
}

/// Ids are bytes modulo 32: the toy model's vocabulary.
struct ToyTokenizer {
  dapt::SpecialTokens special = {};
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText) const {
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte) % 32);
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>&) const { return {}; }
  std::optional<std::int32_t> token_to_id(std::string_view) const { return {}; }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return 32; }
};

/// log p of the whole text, token by token, one position a call: the formula without windows or batches.
double log_prob(dapt::testing::ToyLM& model, const std::vector<std::int32_t>& ids) {
  double sum = 0;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
    dapt::PackedSequence row{{ids[t]}, {ids[t + 1]}, {0}, {0}};  // the toy model looks at one token only
    sum += model.token_log_probs(dapt::collate(std::vector{row})).sum().item<double>();
  }
  return sum;
}

}  // namespace

TEST_CASE("Terms are found as whole words without regard to case, the longest first") {
  const Terms terms({"dpkg", "sources.list", "/etc/fstab", "パッケージ", "dpkg-deb", "", " APT "});
  REQUIRE(terms.list().size() == 6);
  const auto count = [&](std::string_view text) {
    const auto found = terms.count(text);
    return std::pair(found.occurrences, found.distinct);
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  REQUIRE(count("Dpkg, dpkg; DPKG.") == Pair{3, 1});
  REQUIRE(count("xdpkg dpkgs dpkg2 2dpkg") == Pair{0, 0});
  REQUIRE(count("dpkg-deb") == Pair{1, 1});  // not dpkg and dpkg-deb
  REQUIRE(count("dpkg-debx") == Pair{1, 1});  // dpkg, before a hyphen
  REQUIRE(count("the /etc/apt/sources.list and /etc/fstab") == Pair{3, 3});
  REQUIRE(count("このパッケージは") == Pair{1, 1});
  REQUIRE(count("DNSパッケージ1台") == Pair{1, 1});
  REQUIRE(count("lib/etc/fstab") == Pair{1, 1});  // it begins with no letter
  REQUIRE(count("/etc/fstab2") == Pair{0, 0});
  const auto found = [](const char* term, const char* text) { return Terms({term}).count(text).occurrences; };
  REQUIRE(found("サーバ", "DNSサーバ1台") == 1);
  REQUIRE(found("C++", "C++11 or C++, not C") == 2);
  REQUIRE(found("C++", "libC++") == 0);
  REQUIRE(found("Debianパッケージ", "1Debianパッケージ2, Debianパッケージ2") == 1);
  REQUIRE(found("élan", "xélan élans élan") == 1);
  REQUIRE(found("École", "école ÉCOLE École ecole") == 3);
  REQUIRE(found("пакет", "ПАКЕТ, Пакет") == 2);
  REQUIRE(found("Ｌｉｎｕｘサーバ", "ｌｉｎｕｘサーバとＬＩＮＵＸサーバ") == 2);
  REQUIRE(found("größe", "GRÖẞE größe") == 2);  // one letter for one: U+1E9E is ß
  REQUIRE(found("30 k", "30 \u212A") == 1);     // the Kelvin sign, three bytes, is k
  REQUIRE(found("école", "\xC3école") == 1);    // behind a byte that is no UTF-8
  REQUIRE_THROWS_WITH(Terms({" ", ""}), "the list of domain terms is empty");
}

TEST_CASE("Terms finds of many terms those that a plain loop over all of them finds, in English and in Japanese") {
  const auto letters = GENERATE(std::vector<std::string>{"a", "b", "1", "-", " "}, std::vector<std::string>{"あ", "い", "ア", "a", "台"});  // few, so that many terms begin with others
  std::uint64_t state = 7;
  const auto draw = [&](std::uint64_t below) { return dapt::splitmix64(++state) % below; };
  const auto string_of = [&](std::uint64_t length) {
    std::string made;
    while (length-- > 0) made += letters[draw(letters.size())];
    return made;
  };
  std::vector<std::string> list;
  for (int i = 0; i < 300; ++i) list.push_back(string_of(2 + draw(5)));
  const Terms terms(list);
  std::vector<std::string> longest_first = terms.list();
  std::stable_sort(longest_first.begin(), longest_first.end(), [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  const auto is_word = [](char c) { return c == 'a' || c == 'b' || c == '1'; };
  std::int64_t occurrences = 0;
  for (int page = 0; page < 20; ++page) {
    const std::string text = string_of(200);
    std::int64_t expected = 0;
    std::set<std::string> distinct;
    for (std::size_t i = 0; i < text.size();) {
      const auto stands = [&](const std::string& term) {
        const bool begins = !is_word(term.front()) || i == 0 || !is_word(text[i - 1]);
        const bool ends = !is_word(term.back()) || i + term.size() == text.size() || !is_word(text[i + term.size()]);
        return begins && text.compare(i, term.size(), term) == 0 && ends;
      };
      const auto found = std::find_if(longest_first.begin(), longest_first.end(), stands);
      if (found == longest_first.end()) {
        ++i;
        continue;
      }
      ++expected;
      distinct.insert(*found);
      i += found->size();
    }
    CAPTURE(text);
    REQUIRE(terms.count(text).occurrences == expected);
    REQUIRE(terms.count(text).distinct == std::ssize(distinct));
    occurrences += expected;
  }
  REQUIRE(occurrences > 300);
}

TEST_CASE("read_terms reads lines, questions and cloze items") {
  const dapt::testing_support::TemporaryFolder folder;
  std::ofstream(folder.path() / "t.txt") << "\uFEFFfirst\r\n\nsecond term\n";
  std::ofstream(folder.path() / "q.jsonl") << R"({"id":"1","question":"?","answers":["a1","a2"]})"
                                           << "\n\n";
  std::ofstream(folder.path() / "c.jsonl") << R"({"id":"1","sentence":"{word}","answer":"c1","candidates":["x","c1"]})";
  REQUIRE(dapt::read_terms({folder.path() / "t.txt", folder.path() / "q.jsonl", folder.path() / "c.jsonl"}).list() ==
          std::vector<std::string>{"a1", "a2", "c1", "first", "second term"});
  std::ofstream(folder.path() / "bad.jsonl") << "{\"answers\":[\"a\"]}\n{\"answers\":[1]}\n";
  REQUIRE_THROWS_WITH(dapt::read_terms({folder.path() / "bad.jsonl"}), Catch::Contains("bad.jsonl:2: expected an object with \"answers\""));
  std::ofstream(folder.path() / "twice.jsonl") << "{\"answer\":\"a\"}\n{\"answer\":\"b\",\"answer\":\"c\"}\n";
  REQUIRE_THROWS_WITH(dapt::read_terms({folder.path() / "twice.jsonl"}), Catch::Contains("twice.jsonl:2: \"answer\" is given twice"));
  REQUIRE_THROWS_WITH(dapt::read_terms({folder.path() / "none"}), Catch::Contains("cannot read ") && Catch::Contains("none: No such file"));
}

TEST_CASE("read_terms reads gzip, leaves out all white space, and refuses what is no UTF-8 and folders") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto path = folder.path() / "t.txt";
  const auto refused = [&](const std::string& text, const char* message) {
    std::ofstream(path, std::ios::binary) << text;
    REQUIRE_THROWS_WITH(dapt::read_terms({path}), Catch::Contains(message));
  };
  std::ofstream(path) << "\u3000サーバ\u3000\n\u3000\u3000\n\u00A0apt\t\n";
  REQUIRE(dapt::read_terms({path}).list() == std::vector<std::string>{"apt", "サーバ"});
  refused("apt\n\x83\x54\x81\x5B\x83\x6F\n", "t.txt:2: byte 0 of the line is no UTF-8");  // サーバ in Shift-JIS
  refused(std::string("a\0p\0\n\0", 6), "t.txt:1: has a NUL byte");                          // UTF-16
  refused("\u3000\n", "the list of domain terms is empty");
  REQUIRE_THROWS_WITH(dapt::read_terms({folder.path()}), Catch::Contains(folder.path().string() + ": is a folder, expected a file of domain terms"));
  for (const char* name : {"t.txt.gz", "q.jsonl.gz"}) {
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen((folder.path() / name).c_str(), "wb"), gzclose);
    gzputs(file.get(), name[0] == 't' ? "dpkg\nサーバ\n" : R"({"answers":["lintian"]})");
  }
  REQUIRE(dapt::read_terms({folder.path() / "t.txt.gz", folder.path() / "q.jsonl.gz"}).list() == std::vector<std::string>{"dpkg", "lintian", "サーバ"});
}

TEST_CASE("read_terms takes answers from JSON lines, however their names are spelled, and no JSON object for a term") {
  const dapt::testing_support::TemporaryFolder folder;
  const std::string lines = "{\"answers\":[\"dpkg\"]}\n{\"answer\":\"apt\"}\n";
  for (const char* name : {"q.ndjson", "q.JSONL", "q.NdJson.GZ", "q.jsonl.Zst"}) {  // compressed or not is told by what is in them
    std::ofstream(folder.path() / name) << lines;
    REQUIRE(dapt::read_terms({folder.path() / name}).list() == std::vector<std::string>{"apt", "dpkg"});
  }
  for (const char* name : {"q.json", "q.txt", "q"}) {
    std::ofstream(folder.path() / name) << "apt {\"\n \uFEFF{\n  " << lines;
    REQUIRE_THROWS_WITH(dapt::read_terms({folder.path() / name}), Catch::Contains(std::string(name) + ":3: begins as a JSON object does, expected a term; JSON lines are read from files called *.jsonl or *.ndjson"));
  }
}

TEST_CASE("TermDensityScorer counts occurrences a 1,000 characters") {
  const dapt::TermDensityScorer scorer(Terms({"apt"}));
  REQUIRE(scorer.score(pages_of({"apt 日本語 apt", "nothing", ""})) == std::vector<double>{2000.0 / 11, 0.0, 0.0});
}

TEST_CASE("for_each_word: lower case, punctuation apart, one word a CJK character") {
  REQUIRE(words("Café CAFÉ").size() == 2);
  REQUIRE(words("Café")[0] == words("CAFÉ")[0]);
  REQUIRE(words("apt-get, x1").size() == 5);
  REQUIRE(words("日本語 です").size() == 5);
  REQUIRE(words("b日a") == std::vector{words("b")[0], words("日")[0], words("a")[0]});
  REQUIRE(words(" \u3000\n").empty());
  REQUIRE(words("ab")[0] != words("ba")[0]);
}

TEST_CASE("word_ngrams counts the n-grams of all lengths up to the order") {
  std::int64_t total = 0, kinds = 0;
  for (const auto& [ngram, count] : dapt::word_ngrams("a b a b c", 2)) {
    total += count;
    ++kinds;
  }
  REQUIRE(total == 5 + 4);
  REQUIRE(kinds == 3 + 3);  // a b c, ab ba bc
  REQUIRE(dapt::word_ngrams("a b", 2) .size() == 3);
  REQUIRE(dapt::word_ngrams("", 2).empty());
}

TEST_CASE("NgramCrossEntropyScorer without refits is the formula") {
  // Domain "a a b", general "b c c c": q = (2, 2, 3) / 7, mu = 0.5 * 7.
  const auto pages = pages_of({"a a b", "b c c c"});
  const NgramCrossEntropyScorer scorer(pages, {true, false}, {.prior_share = 0.5, .max_refits = 0});
  const double mu = 3.5;
  const auto ratio = [&](double domain, double general) {
    const double q = (domain + general) / 7;
    return std::log((domain + mu * q) / (3 + mu)) - std::log((general + mu * q) / (4 + mu));
  };
  const double a = ratio(2, 0), b = ratio(1, 1), c = ratio(0, 3), unknown = std::log((4 + mu) / (3 + mu));
  const auto scores = scorer.score(pages_of({"a b", "c", "zebra", "A a C"}));
  REQUIRE(scores[0] == Approx((a + b) / 2).epsilon(1e-12));
  REQUIRE(scores[1] == Approx(c).epsilon(1e-12));
  REQUIRE(scores[2] == Approx(unknown).epsilon(1e-12));
  REQUIRE(scores[3] == Approx((2 * a + c) / 3).epsilon(1e-12));
  REQUIRE((scorer.refits() == 0 && !scorer.settled()));
}

TEST_CASE("NgramCrossEntropyScorer spreads from seeds to pages that share words with them only by way of others") {
  std::vector<std::string> texts;
  for (int i = 0; i < 20; ++i) {
    texts.push_back(i % 4 == 0 ? "seed apt dpkg package" : "apt dpkg package control");
    texts.push_back("rose garden poem spring rain");
  }
  texts.push_back("control control");  // shares no word with the seeds
  std::vector<bool> seeds(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) seeds[i] = texts[i].starts_with("seed");
  const auto pages = pages_of(texts);
  const auto last = std::vector<Page>{pages.back()};
  REQUIRE(NgramCrossEntropyScorer(pages, seeds, {.max_refits = 0}).score(last)[0] < 0);
  const NgramCrossEntropyScorer refitted(pages, seeds);
  REQUIRE((refitted.refits() >= 2 && refitted.settled()));
  REQUIRE_FALSE(NgramCrossEntropyScorer(pages, seeds, {.max_refits = 1}).settled());  // it moved 15 of 41 pages
  REQUIRE(refitted.score(last)[0] > 0);
  REQUIRE(refitted.score(pages)[1] < 0);
}

TEST_CASE("NgramCrossEntropyScorer's scores depend neither on threads nor on the pages around") {
  const auto pages = pages_of({"apt dpkg", "apt package dpkg", "rose poem", "spring poem rain", "dpkg rose"});
  const std::vector<bool> seeds{true, true, false, false, false};
  const auto scores = NgramCrossEntropyScorer(pages, seeds, {.order = 2, .threads = 1}).score(pages);
  const NgramCrossEntropyScorer several(pages, seeds, {.order = 2, .threads = 4});
  REQUIRE(several.score(pages) == scores);
  for (std::size_t i = 0; i < pages.size(); ++i) REQUIRE(several.score(std::span(pages).subspan(i, 1))[0] == scores[i]);
}

TEST_CASE("NgramCrossEntropyScorer refuses seeds that say nothing") {
  const auto pages = pages_of({"a b", "c d"});
  REQUIRE_THROWS_WITH(NgramCrossEntropyScorer(pages, {false, false}), Catch::Contains("0 of 2 pages are seeds, expected some and not all"));
  REQUIRE_THROWS_WITH(NgramCrossEntropyScorer(pages, {true, true}), Catch::Contains("2 of 2 pages are seeds"));
  REQUIRE_THROWS_WITH(NgramCrossEntropyScorer(pages, {true}), Catch::Contains("found 1 seed marks for 2 pages"));
  REQUIRE_THROWS_WITH(NgramCrossEntropyScorer(pages, {true, false}, {.order = 0}), Catch::Contains("order is 0"));
  REQUIRE_THROWS_WITH(dapt::default_filter(pages, Terms({"zebra"})), Catch::Contains("none of 2 pages has 1 of the 1 domain terms"));
}

TEST_CASE("LmCrossEntropyScorer is the difference of two cross-entropies, whatever the windows and batches") {
  dapt::testing::ToyLM domain({.seed = 1}), general({.seed = 2});
  const ToyTokenizer tokenizer;
  const auto pages = pages_of({"the quick brown fox jumps over the lazy dog", "short", "x", "", "another page of middling length"});
  for (const std::optional<std::int32_t> start : {std::optional<std::int32_t>(), std::optional<std::int32_t>(5)}) {
    for (const std::int64_t max_length : {7, 1024}) {
      const dapt::LmCrossEntropyScorer scorer(domain, general, tokenizer, {.max_length = max_length, .micro_batch_size = 3, .start = start});
      const auto scores = scorer.score(pages);
      for (std::size_t i = 0; i < pages.size(); ++i) {
        auto ids = tokenizer.encode(pages[i].text, dapt::SpecialText::as_text);
        double expected = 0, tokens = 0;
        // Windows begin with the start token; without one, with the last token of the window before.
        std::vector<std::int32_t> window;
        if (start) window.push_back(*start);
        const auto flush = [&] {
          expected += log_prob(domain, window) - log_prob(general, window);
          if (window.size() > 1) tokens += static_cast<double>(window.size() - 1);
          window = {start ? *start : window.empty() ? 0 : window.back()};
        };
        for (const auto id : ids) {
          window.push_back(id);
          if (static_cast<std::int64_t>(window.size()) == max_length + 1) flush();
        }
        flush();
        REQUIRE(tokens == Approx(start ? static_cast<double>(ids.size()) : std::max(0.0, static_cast<double>(ids.size()) - 1)));
        REQUIRE(scores[i] == Approx(tokens > 0 ? expected / tokens : 0).margin(1e-6));
      }
    }
  }
  using Model = dapt::testing::ToyLM;
  using Scorer = dapt::LmCrossEntropyScorer<Model, Model, ToyTokenizer>;
  static_assert(dapt::check_page_scorer<Scorer>());
  static_assert(std::is_constructible_v<Scorer, Model&, Model&, ToyTokenizer&> && !std::is_constructible_v<Scorer, Model&, Model&, ToyTokenizer>);  // keeps references: of temporaries it is not made
}
