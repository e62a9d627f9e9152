// Attention in own AVX-512 code (kernels/cpu/attention_avx512.hpp), on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/instruction_set.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/blocked_attention.hpp>
#include <dapt/kernels/cpu/attention_avx512.hpp>
#include <dapt/kernels/documents.hpp>

namespace dapt::detail {

#if defined(__x86_64__)

/// Whether the AVX-512 code takes queries of this type and size of head.
inline bool takes_avx512_attention(at::ScalarType dtype, at::Device device, std::int64_t head_size) { return takes_avx512_elementwise(dtype, device) && head_size % 16 == 0; }

/// The AVX-512 code behind the interface of BlockedAttention. Rows are padded to whole blocks; a padding row sees itself alone.
class Avx512Attention {
 public:
  Avx512Attention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options)
      : batch_(q.size(0)), length_(q.size(1)), q_(padded(q)), k_(padded(k)), v_(padded(v)) {
    const std::int64_t row = q_.size(1);
    plan_ = {batch_ * row, q.size(2), k.size(2), q.size(3), static_cast<float>(options.scale), {}, {}};
    plan_.first.resize(plan_.tokens);
    plan_.past.resize(plan_.tokens);
    const std::int32_t* start = documents.starts.const_data_ptr<std::int32_t>();
    for (std::int64_t b = 0; b < batch_; ++b)
      for (std::int64_t t = 0; t < row; ++t) {
        std::int64_t first = t < length_ ? start[b * length_ + t] : t;
        if (options.sliding_window > 0) first = std::max(first, t - options.sliding_window + 1);
        plan_.first[b * row + t] = static_cast<std::int32_t>(b * row + first);
      }
    for (std::int64_t key = 0, past = 0; key < plan_.tokens; ++key) {
      while (past < plan_.tokens && plan_.first[past] <= key) ++past;
      plan_.past[key] = static_cast<std::int32_t>(past);
    }
  }

  Attended forward() const {
    Tensor o = at::empty_like(q_), lse = at::empty({plan_.heads, plan_.tokens}, q_.options().dtype(at::kFloat));
    with_types([&]<class Operand, class Element>() {
      avx512::attention_forward<Operand>(plan_, data<Element>(q_), data<Element>(k_), data<Element>(v_), o.mutable_data_ptr<Element>(), lse.mutable_data_ptr<float>());
    });
    return {o.narrow(1, 0, length_).contiguous(), lse};
  }

  std::array<Tensor, 3> backward(const Attended& attended, const Tensor& gradient) const {
    const Tensor whole_o = padded(attended.o), whole_gradient = padded(gradient);
    std::array gradients{at::empty_like(q_), at::empty_like(k_), at::empty_like(v_)};
    with_types([&]<class Operand, class Element>() {
      avx512::attention_backward<Operand>(plan_, data<Element>(q_), data<Element>(k_), data<Element>(v_), data<Element>(whole_o), attended.lse.const_data_ptr<float>(),
                                          data<Element>(whole_gradient), gradients[0].mutable_data_ptr<Element>(), gradients[1].mutable_data_ptr<Element>(),
                                          gradients[2].mutable_data_ptr<Element>());
    });
    for (Tensor& x : gradients) x = x.narrow(1, 0, length_);
    return gradients;
  }

  /// Packed operands, and what each thread sums up: the thread keeps them (kernels/cpu/workspace.hpp).
  static AttentionMemory memory(const AttentionSizes& of) {
    const std::int64_t tokens = of.rows * whole_blocks(of.length), threads = at::get_num_threads();
    const auto bytes = [&]<class Operand>() { return static_cast<std::int64_t>(avx512::backward_workspace<Operand>(tokens, of.heads, of.head_size, threads).bytes()); };
    return {.kept = with_element(widens(of.dtype, at::kCPU) ? at::kFloat : of.dtype, bytes)};
  }

 private:
  /// Calls body<Operand, Element>(): what products read, what the tensors hold.
  template <class Body>
  void with_types(Body body) const {
    if (q_.scalar_type() == at::kFloat) body.template operator()<float, float>();
    else if (widens(q_)) body.template operator()<float, c10::BFloat16>();
    else body.template operator()<c10::BFloat16, c10::BFloat16>();
  }

  template <class Element>
  static const Element* data(const Tensor& x) {
    return x.const_data_ptr<Element>();
  }

  static std::int64_t whole_blocks(std::int64_t length) {
    constexpr std::int64_t block = avx512::AttentionPlan::block;
    return (length + block - 1) / block * block;
  }
  static Tensor padded(const Tensor& x) {
    const std::int64_t missing = whole_blocks(x.size(1)) - x.size(1);
    return missing == 0 ? x.contiguous() : at::constant_pad_nd(x, {0, 0, 0, 0, 0, missing});
  }

  std::int64_t batch_, length_;
  Tensor q_, k_, v_;
  avx512::AttentionPlan plan_;
};

#else

inline bool takes_avx512_attention(at::ScalarType, at::Device, std::int64_t) { return false; }
using Avx512Attention = BlockedAttention;

#endif

}  // namespace dapt::detail
