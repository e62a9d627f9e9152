#include <dapt/core/json.hpp>

#include <cstdint>
#include <string>

#include <catch2/catch.hpp>

using Catch::Contains;
using dapt::detail::JsonKeys;
using dapt::detail::parse_json;
using dapt::detail::whole_number;

namespace {

std::string nested(std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); }

}  // namespace

TEST_CASE("JSON is nested 100 deep at most, brackets inside strings do not count") {
  REQUIRE(parse_json(nested(100), "f").is_array());
  REQUIRE_THROWS_WITH(parse_json(nested(101), "f"), "f: JSON nested 101 deep, expected at most 100");
  REQUIRE_THROWS_WITH(parse_json(R"({"a\"[": )" + nested(100) + "}", "f"), Contains("nested 101 deep"));
  REQUIRE(parse_json("[\"" + std::string(500, '[') + R"(\\"])", "f").size() == 1);
  REQUIRE_THROWS_AS(parse_json(std::string(1'000'000, '{'), "f"), dapt::Error);
}

TEST_CASE("JSON that is none is named with its byte, also where a number fits no double") {
  REQUIRE_THROWS_WITH(parse_json("[1,", "f"), Contains("f: no valid JSON at byte 4 of 3"));
  REQUIRE_THROWS_WITH(parse_json("", "f"), Contains("f: no valid JSON"));
  REQUIRE_THROWS_WITH(parse_json("[1e999]", "f"), Contains("f: no valid JSON"));
  REQUIRE_THROWS_AS(parse_json("\"\xff\"", "f"), dapt::Error);
  REQUIRE_THROWS_WITH(dapt::detail::read_json_file("/no/such/file.json"), "/no/such/file.json: cannot be opened");
}

TEST_CASE("A key that is given twice counts as it does in Python, unless keys must be unique") {
  const std::string text = R"({"a": 1, "b": {"a": 2}, "a": 3})";
  REQUIRE(parse_json(text, "f")["a"] == 3);
  REQUIRE_THROWS_WITH(parse_json(text, "f", JsonKeys::unique), "f: \"a\" is given twice");
  REQUIRE(parse_json(R"({"a": {"b": 1}, "b": 1})", "f", JsonKeys::unique).size() == 2);
}

TEST_CASE("A whole number is one that its type holds, and nothing is cut off") {
  using nlohmann::json;
  REQUIRE(whole_number<std::int64_t>(json(INT64_MIN), "x") == INT64_MIN);
  REQUIRE(whole_number<std::uint32_t>(json(4294967295u), "x") == 4294967295u);
  for (const json& value : {json(std::uint64_t{1} << 63), json(1.0), json(1e300), json("1"), json(nullptr), json(true)})
    REQUIRE_THROWS_WITH(whole_number<std::int64_t>(value, "x"), "x: found " + value.dump() + ", expected a whole number of 64 bits");
  REQUIRE_THROWS_WITH(whole_number<std::int32_t>(json(std::int64_t{1} << 32), "x"), Contains("expected a whole number of 32 bits"));
  REQUIRE_THROWS_AS(whole_number<std::uint32_t>(json(-1), "x"), dapt::Error);
}
