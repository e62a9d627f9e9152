#include <cstdint>
#include <cstring>
#include <string>

#include <catch2/catch.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <dapt/io/safetensors.hpp>

#include "support/paths.hpp"

using namespace dapt;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::read_bytes;
using dapt::testing_support::write_bytes;

namespace {

/// A file with this header and so many bytes after it.
std::string with_header(const std::string& header, std::size_t data) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(data, '\1');
}

void refused_file(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "broken.safetensors";
  write_bytes(file, bytes);
  INFO(message);
  REQUIRE_THROWS_WITH(SafetensorsFile(file), Catch::Contains(file.string()) && Catch::Contains(message));
}

}  // namespace

TEST_CASE("What was written is read: names, shapes, types, values, metadata") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.safetensors";
  const NamedParameters tensors = {{"z.bytes", at::tensor({1, 2, 3}, at::kByte)},
                                   {"half", at::arange(5, at::kHalf)},
                                   {"brain", at::arange(6, at::kBFloat16).view({2, 3})},
                                   {"transposed", at::arange(6, at::kFloat).view({2, 3}).t()},
                                   {"double", at::arange(3, at::kDouble)},
                                   {"long", at::arange(-3, 4, at::kLong)},
                                   {"int", at::arange(2, at::kInt)},
                                   {"flags", at::tensor({1, 0, 1}).to(at::kBool)},
                                   {"scalar", at::tensor(2.5f).squeeze()},
                                   {"empty", at::empty({0, 4}, at::kFloat)}};
  write_safetensors(file, tensors, {{"format", "pt"}, {"step", "7"}});
  const SafetensorsFile read_back(file);
  REQUIRE(read_back.names().size() == tensors.size());
  REQUIRE(read_back.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"step", "7"}});
  for (const auto& written : tensors) {
    INFO(written.name);
    REQUIRE(read_back.contains(written.name));
    const Tensor found = read_back.tensor(written.name);
    REQUIRE(found.scalar_type() == written.value.scalar_type());
    REQUIRE(found.equal(written.value));
    if (found.numel() > 0) REQUIRE(reinterpret_cast<std::uintptr_t>(found.const_data_ptr()) % found.element_size() == 0);
  }
  REQUIRE_FALSE(read_back.contains("other"));
  REQUIRE_THROWS_WITH(read_back.tensor("other"), Catch::Contains("no tensor \"other\""));
}

TEST_CASE("The header's length is a multiple of 8, and wide elements come first") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.safetensors";
  write_safetensors(file, {{"b", at::tensor({1, 2, 3}, at::kByte)}, {"f", at::ones({1}, at::kFloat)}});
  const std::string bytes = read_bytes(file);
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  REQUIRE(size % 8 == 0);
  REQUIRE(bytes.size() == 8 + size + 7);
  REQUIRE(bytes.substr(8 + size, 4) == std::string("\0\0\x80\x3f", 4));
  REQUIRE(bytes.substr(8 + size + 4) == "\1\2\3");
}

TEST_CASE("A tensor outlives the reader, and writing to it does not reach the file") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.safetensors";
  write_safetensors(file, {{"x", at::arange(4, at::kFloat)}});
  const std::string before = read_bytes(file);
  Tensor x;
  {
    const SafetensorsFile reader(file);
    x = reader.tensor("x");
  }
  REQUIRE(x.sum().item<float>() == 6);
  x.fill_(9);
  REQUIRE(read_bytes(file) == before);
}

TEST_CASE("Elements that are not aligned in the file are read as well") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.safetensors";
  const float value = 1.5f;
  std::string bytes = with_header(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 0);
  REQUIRE(bytes.size() % 4 != 0);
  write_bytes(file, bytes + std::string(reinterpret_cast<const char*>(&value), 4));
  REQUIRE(SafetensorsFile(file).tensor("x").item<float>() == 1.5f);
}

TEST_CASE("A file that breaks a rule of the format is refused, and the message says which") {
  const std::string one = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  SECTION("length") {
    refused_file("", "empty file");
    refused_file("1234", "found 4 bytes");
    refused_file(std::string("\0\0\0\0\0\0\0\x80", 8) + one, "header length is 9223372036854775808");
    refused_file(std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + one, "header length is 18446744073709551615");
    refused_file(with_header(one, 8).substr(0, 20), "header length is " + std::to_string(one.size()) + ", expected at most 12");
  }
  SECTION("cut by one byte, or one byte too long") {
    refused_file(with_header(one, 7), "tensor \"x\": data_offsets are [0, 8], but 7 bytes follow the header");
    refused_file(with_header(one, 9), "9 bytes follow the header, but its tensors end at 8");
  }
  SECTION("overlap and hole") {
    refused_file(with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", 7),
            "tensor \"b\" begins at byte 3, inside the tensor before it");
    refused_file(with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}})", 7),
            "a hole before tensor \"b\"");
    refused_file(with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5), "a hole before tensor \"a\"");
  }
  SECTION("offsets against shape and type") {
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "data_offsets hold 8 bytes, but dtype F32 and shape [3] need 12");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "data_offsets are [8, 0]");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,8]}})", 8), "fits 64 bits");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[0,1099511627776,1099511627776],"data_offsets":[0,0]}})", 0), "fits 64 bits");  // its strides would not
    std::string ones = "1";
    for (int i = 1; i < 65; ++i) ones += ",1";
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[)" + ones + R"(],"data_offsets":[0,4]}})", 4), "expected at most 64 sizes");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "whole numbers >= 0 as shape");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}})", 8), "as data_offsets");
    refused_file(with_header(R"({"x":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}})", 8), "expected dtype F64");
    refused_file(with_header(R"({"x":{"dtype":"F32","shape":[2]}})", 8), "expected dtype, shape and data_offsets");
  }
  SECTION("JSON") {
    refused_file(with_header("{\"x\":", 0), "header: no valid JSON");
    refused_file(with_header("{\"x\":" + std::string(200, '[') + std::string(200, ']') + "}", 0), "header: JSON nested 201 deep, expected at most 100");
    refused_file(with_header("[1]", 0), "header is array, expected an object");
    refused_file(with_header(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "header: \"x\" is given twice");
    refused_file(with_header(R"({"__metadata__":{"a":1}})", 0), "__metadata__ \"a\" is number");
  }
}

TEST_CASE("Files that are not there, and tensors that cannot be written") {
  const TemporaryFolder folder;
  REQUIRE_THROWS_WITH(SafetensorsFile(folder.path() / "none.safetensors"), Catch::Contains("none.safetensors: cannot open: No such file"));
  REQUIRE_THROWS_WITH(SafetensorsFile(folder.path()), Catch::Contains("no regular file"));
  const auto file = folder.path() / "a.safetensors";
  REQUIRE_THROWS_WITH(write_safetensors(file, {{"x", at::zeros({1}, at::kComplexFloat)}}), Catch::Contains("tensor \"x\" is ComplexFloat"));
  REQUIRE_THROWS_WITH(write_safetensors(file, {{"x", at::zeros({1})}, {"x", at::zeros({1})}}), Catch::Contains("\"x\" is given twice"));
  REQUIRE_FALSE(std::filesystem::exists(file));
}
