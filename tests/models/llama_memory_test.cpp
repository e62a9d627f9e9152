#include <algorithm>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/models/llama.hpp>

using namespace dapt;

namespace {

constexpr std::int64_t C = 128, Q = 256, K = 64, V = 16384, N = 2048;  // four heads of 64, one of keys

ActivationMemory planned(std::vector<at::Device> devices, at::ScalarType dtype) {
  LlamaConfig config;
  config.vocab_size = V;
  config.hidden_size = C;
  config.intermediate_size = C;
  config.num_hidden_layers = 1;
  config.num_attention_heads = Q / 64;
  config.num_key_value_heads = K / 64;
  config.head_dim = 64;
  config.max_position_embeddings = N;
  return Llama::without_storage(config, dtype, {.devices = std::move(devices)}).activation_memory(1, N, [](const Linear&, std::int64_t) -> std::int64_t { return 0; });
}

}  // namespace

// The processor's kernels would take half of these rows, widen the weight, and keep attention's operands.
TEST_CASE("A plan for a GPU is that of its kernels, whatever the processor's are") {
  const Bf16Products chosen = bf16_products();
  const std::int64_t copies = cuda_kernels().are_linked() ? 0 : 10;  // of a bf16 logit where LibTorch computes the loss: in fp32, the fp32 gradient, and that in bf16
  for (const auto products : {Bf16Products::native, Bf16Products::widened}) {
    bf16_products() = products;
    const ActivationMemory memory = planned({at::Device(at::kCUDA, 0)}, at::kBFloat16);
    REQUIRE(memory.loss == 2 * 2 * N * C + 1024 * V * (2 + copies));
    // The larger half of the layer's backward pass: gradients of q, k, v and the output, flash attention's sums, and the gradients of the residual stream.
    REQUIRE(memory.layer == N * C * (2 * 4 + 2) + N * (2 * Q + 2 * K) * 2 + 4 * (N + 128) * (Q + 4) + 2 * 2 * N * Q);
  }
  bf16_products() = chosen;
}

// While a block's scores are there, no gradient of the queries in its rows' order is: three copies of theirs, four of the keys' and the values'.
TEST_CASE("What takes no flash attention on a GPU is planned with wide copies and the scores of 128 queries, five times") {
  REQUIRE(planned({at::Device(at::kCUDA, 0)}, at::kFloat).layer == N * C * (2 * 4 + 4) + N * (2 * Q + 2 * K) * 4 + 4 * (N * (3 * Q + 4 * K) + 5 * 4 * 128 * N));
}

TEST_CASE("A plan without devices, or for the CPU, is that of the processor") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const ActivationMemory none = planned({}, dtype), cpu = planned({at::Device(at::kCPU)}, dtype);
    REQUIRE(none.loss == cpu.loss);
    REQUIRE(none.layer == cpu.layer);
    REQUIRE(none.saved == cpu.saved);
    REQUIRE(none.saved == planned({at::Device(at::kCUDA, 0)}, dtype).saved);
  }
}
