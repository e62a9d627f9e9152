#include <catch2/catch.hpp>

#include <dapt/metrics/normalise.hpp>

using dapt::Normalisation;
using dapt::NormaliseStep;

TEST_CASE("the default is strip and casefold, as Python's") {
  const Normalisation normalise;
  REQUIRE(normalise.to_string() == "strip,casefold");
  REQUIRE(normalise("  Build-Depends\t\n") == "build-depends");
  REQUIRE(normalise("\u3000\u00A0\x1C東京 \u3000") == "東京");  // "\u3000\u00a0\x1c東京 \u3000".strip()
  REQUIRE(normalise("Straße") == normalise("STRASSE"));         // full folding, not lower case
  REQUIRE(normalise("ΣΊΣΥΦΟΣ") == "σίσυφοσ");                   // final sigma folds too
  REQUIRE(normalise(" \u3000 ").empty());
  REQUIRE(normalise("a\u200Bb\u200B") == "a\u200Bb\u200B");  // the zero width space is no white space
  REQUIRE(normalise("１２個。") != normalise("12個"));       // Japanese widths are not its business
}

TEST_CASE("the Japanese chain makes equal what harnesses keep apart") {
  const Normalisation normalise = dapt::japanese_normalisation();
  REQUIRE(normalise("１２個。") == "12個");
  REQUIRE(normalise("　東京 ") == "東京");
  REQUIRE(normalise("ｶﾞ") == "ガ");
  REQUIRE(normalise("「カ・タ・カ・ナ」") == "カタカナ");
  REQUIRE(normalise("｢ｱｲ｣｡") == "アイ");
  REQUIRE(normalise("ＤＥＢＩＡＮ！") == "debian");
  REQUIRE(normalise("コーヒー") == "コーヒー");  // the long vowel mark is a letter
  REQUIRE(normalise("１２．５") == "12.5");      // and the decimal point is part of a number
  REQUIRE(normalise("10〜20") == "10〜20");
  REQUIRE(normalise("山田\u3000\u3000太郎") == "山田 太郎");
}

TEST_CASE("each step by itself") {
  const auto only = [](NormaliseStep step, std::string_view text) { return Normalisation{.steps = {step}}(text); };
  REQUIRE(only(NormaliseStep::nfkc, "㈱①ﬁ") == "(株)1fi");
  REQUIRE(only(NormaliseStep::nfkc, "か\u3099") == "が");
  REQUIRE(only(NormaliseStep::collapse_spaces, " a \t\u3000 b ") == " a b ");
  REQUIRE(only(NormaliseStep::remove_japanese_punctuation, "。a.b!、") == "a.b!");
  REQUIRE(only(NormaliseStep::strip, "\n a b \n") == "a b");
  REQUIRE(Normalisation{.steps = {}}(" A ") == " A ");
}

TEST_CASE("a chain is written and read by name") {
  for (const Normalisation& chain : {Normalisation{}, dapt::japanese_normalisation(), Normalisation{.steps = {}}}) {
    REQUIRE((Normalisation::parse(chain.to_string()).steps == chain.steps));
  }
  REQUIRE((Normalisation::parse("nfkc,strip").steps == std::vector{NormaliseStep::nfkc, NormaliseStep::strip}));
  REQUIRE_THROWS_WITH(Normalisation::parse("strip,lower"),
                    "normalisation: found \"lower\", expected none or a list of strip, collapse_spaces, casefold, nfkc, remove_japanese_punctuation");
  REQUIRE_THROWS_WITH(Normalisation::parse(""), Catch::Matchers::StartsWith("normalisation: found \"\", expected"));
}
