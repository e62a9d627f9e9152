#include <dapt/kernels/quantized_weight.hpp>

#include <optional>

#include <dapt/core/linear.hpp>
#include <dapt/io/safetensors.hpp>
#include <dapt/kernels/lora_linear.hpp>

#include "comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

at::Tensor all_values(const FrozenWeightPtr& weight, at::ScalarType type) { return weight->values(0, weight->out, type); }

Linear frozen_layer(const at::Tensor& weight, const at::Tensor& bias, Quantization quantization) {
  return {"layer", frozen_placeholder(weight.sizes(), weight.options()), bias, {}, quantized_weight(weight, quantization)};
}

/// Sets how much memory a block may take, for as long as it lives.
class BlockBytes {
 public:
  explicit BlockBytes(std::int64_t bytes) : before_(std::exchange(frozen_block_bytes(), bytes)) {}
  ~BlockBytes() { frozen_block_bytes() = before_; }

 private:
  std::int64_t before_;
};

/// Output, then the gradients of the inputs.
std::vector<at::Tensor> run(const std::function<at::Tensor(const std::vector<at::Tensor>&)>& operation, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().clone().requires_grad_(true));
  const at::Tensor y = operation(leaves);
  at::manual_seed(11);
  auto results = torch::autograd::grad({y}, leaves, {at::randn_like(y)});
  results.insert(results.begin(), y.detach());
  return results;
}

void require_equal(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO((i == 0 ? "output" : "gradient of input ") << i << ", largest difference " << (found[i] - expected[i]).abs().max().item<double>());
    REQUIRE(at::equal(found[i], expected[i]));
  }
}

}  // namespace

TEST_CASE("Codes, scales and values of int8 and nf4 are bitsandbytes', bit for bit", "[kernels]") {
  const SafetensorsFile recorded(DAPT_TEST_DATA "/parity/kernels/quantized.safetensors");
  REQUIRE(at::equal(recorded.tensor("nf4.table"), at::tensor(at::ArrayRef<float>(nf4_table.data(), 16))));
  for (const auto& [name, dtype] : std::vector<std::pair<std::string, at::ScalarType>>{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}) {
    const at::Tensor weight = recorded.tensor("weight").to(dtype);
    const Nf4Weight nf4 = quantize_nf4(weight);
    REQUIRE(at::equal(nf4.codes, recorded.tensor("nf4." + name + ".codes")));
    REQUIRE(at::equal(nf4.absmax, recorded.tensor("nf4." + name + ".absmax")));
    const Int8Weight int8 = quantize_int8(weight);
    REQUIRE(at::equal(int8.codes, recorded.tensor("int8." + name + ".codes")));
    REQUIRE(at::equal(int8.absmax, recorded.tensor("int8." + name + ".absmax")));
    for_each_instruction_set([&] {
      for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
        const auto frozen = quantized_weight(weight, quantization);
        const at::Tensor values = recorded.tensor(std::string(quantization_name(quantization)) + "." + name + ".values");
        REQUIRE(at::equal(all_values(frozen, dtype), values));
        REQUIRE(at::equal(all_values(frozen, at::kFloat), values.to(at::kFloat)));  // as products in fp32 read them: rounded first
      }
    });
  }
}

TEST_CASE("A few values in int8 and nf4 are those computed by hand, also in a row that ends inside a block", "[kernels]") {
  const at::Tensor weight = at::tensor({0.5f, -2.0f, 1.0f, 0.0f, 0.0f, 0.0f}).view({2, 3});
  const Int8Weight int8 = quantize_int8(weight);  // 0.5 * 127 / 2 = 31.75, 1 * 127 / 2 = 63.5, to the even 64; a row of zeros stays zero
  REQUIRE(at::equal(int8.codes, at::tensor({32, -127, 64, 0, 0, 0}, at::kChar).view({2, 3})));
  const Nf4Weight nf4 = quantize_nf4(weight);  // 0.25 -> 0.2461 (10), -1 (0), 0.5 between 0.4407 and 0.5626 -> 0.4407 (12), 0 (7)
  REQUIRE(at::equal(nf4.codes, at::tensor({10 << 4 | 0, 12 << 4 | 7, 7 << 4 | 7}, at::kByte)));
  REQUIRE(at::equal(all_values(quantized_weight(weight, Quantization::nf4), at::kFloat).view(-1), at::tensor({2 * nf4_table[10], -2.0f, 2 * nf4_table[12], 0.0f, 0.0f, 0.0f})));
  REQUIRE(quantized_weight(weight, Quantization::nf4)->bytes == 3 + 4);
  REQUIRE(quantized_weight(weight, Quantization::int8)->bytes == 6 + 8);
}

TEST_CASE("Any part of a quantised weight has the values of the whole, in every instruction set", "[kernels]") {
  at::manual_seed(3);
  for (const auto& [out, in] : std::vector<std::pair<std::int64_t, std::int64_t>>{{7, 40}, {5, 33}, {9, 200}, {3, 64}})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
        const auto frozen = quantized_weight(at::randn({out, in}).to(dtype), quantization);
        std::optional<at::Tensor> first;
        for_each_instruction_set([&] {
          const at::Tensor whole = all_values(frozen, dtype);
          if (!first) first = whole;
          REQUIRE(at::equal(whole, *first));
          for (const auto& [row, rows, column, columns] : std::vector<std::array<std::int64_t, 4>>{{1, 2, 0, in}, {0, out, 5, in - 6}, {2, 1, 3, 1}}) {
            at::Tensor part = at::empty({rows, columns}, dtype);
            frozen->read(part, row, column);
            REQUIRE(at::equal(part, whole.narrow(0, row, rows).narrow(1, column, columns)));
          }
        });
      }
}

TEST_CASE("The way of devices without own code gives the same values", "[kernels]") {
  at::manual_seed(6);
  const at::Tensor weight = at::randn({7, 200});
  const auto check = [&](const auto& stored, Quantization quantization) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      at::Tensor part = at::empty({3, 150}, dtype), found = at::empty_like(part);
      quantized_weight(weight.to(dtype), quantization)->read(part, 2, 33);
      dapt::detail::read_on_device(dapt::detail::on_device(stored(weight.to(dtype)), at::kCPU), dtype, found, 2, 33);
      REQUIRE(at::equal(found, part));
    }
  };
  check([](const at::Tensor& values) { return quantize_int8(values); }, Quantization::int8);
  check([](const at::Tensor& values) { return quantize_nf4(values); }, Quantization::nf4);
}

TEST_CASE("A layer with a frozen weight has the bits of the layer with its values, in blocks of any size", "[kernels]") {
  at::manual_seed(4);
  for (const auto& [rows, in, out] : std::vector<std::array<std::int64_t, 3>>{{1, 192, 320}, {5, 40, 24}, {96, 576, 320}, {96, 320, 576}})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto quantization : {Quantization::int8, Quantization::nf4})
        for_each_instruction_set([&] {
          const at::Tensor x = at::randn({1, rows, in}).to(dtype), bias = at::randn({out}).to(dtype), a = at::randn({4, in}) / 8, b = at::randn({out, 4}) / 4;
          const Linear frozen = frozen_layer((at::randn({out, in}) / 16).to(dtype), bias, quantization), frozen_without{"layer", frozen.weight, {}, {}, frozen.frozen};
          const at::Tensor values = frozen.values();
          for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{1} << 25}) {
            const BlockBytes bounded(bytes);
            require_equal(run([&](const auto& i) { return frozen.plain(i[0]); }, {x}), run([&](const auto& i) { return plain_linear(i[0], values, bias); }, {x}));
            require_equal(run([&](const auto& i) { return frozen_without.plain(i[0]); }, {x}), run([&](const auto& i) { return plain_linear(i[0], values); }, {x}));
            require_equal(run([&](const auto& i) { return lora_linear(i[0], frozen.weight, i[3], i[1], i[2], 2, frozen.frozen); }, {x, a, b, bias}),
                          run([&](const auto& i) { return lora_linear(i[0], values, i[3], i[1], i[2], 2); }, {x, a, b, bias}));
          }
        });
}

TEST_CASE("A frozen weight's placeholder has the shape and type that adapters ask for, shows when it is read, and cannot be written to or trained", "[kernels]") {
  const at::Tensor weight = at::randn({8, 64}).to(at::kBFloat16), x = at::randn({3, 64}).to(at::kBFloat16);
  Linear layer = frozen_layer(weight, {}, Quantization::nf4);
  REQUIRE(layer.weight.sizes() == weight.sizes());
  REQUIRE(layer.weight.scalar_type() == at::kBFloat16);
  REQUIRE(layer.weight.isnan().all().item<bool>());
  REQUIRE(layer.weight.storage().nbytes() == 2);
  REQUIRE_THROWS(layer.weight.mul_(2));
  layer.weight.set_requires_grad(true);
  REQUIRE_THROWS_WITH(layer.plain(x), Catch::Contains("layer is frozen in nf4 and cannot train"));
  layer.weight.set_requires_grad(false);
  const at::Tensor before = layer.plain(x), values = layer.values();
  layer.thaw();
  REQUIRE(at::equal(layer.weight, values));
  REQUIRE(at::equal(layer.plain(x), before));
  layer.weight.mul_(2);
}

TEST_CASE("Values that are not finite and types that are not supported are refused", "[kernels]") {
  at::Tensor weight = at::randn({4, 64});
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    weight[2][7] = bad;
    REQUIRE_THROWS_WITH(quantize_nf4(weight), Catch::Contains("not finite"));
    REQUIRE_THROWS_WITH(quantize_int8(weight), Catch::Contains("not finite"));
  }
  REQUIRE_THROWS_WITH(quantized_weight(weight.to(at::kHalf), Quantization::nf4), Catch::Contains("Half") && Catch::Contains("expected fp32 or bf16"));
  REQUIRE_THROWS_WITH(quantized_weight(weight, Quantization::none), Catch::Contains("expected int8 or nf4"));
  REQUIRE_THROWS_WITH(quantization_from_name("fp4"), Catch::Contains("\"fp4\"") && Catch::Contains("none, int8 or nf4"));
}
