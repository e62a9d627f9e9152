// The numbers of the formats that frozen weights are stored in (kernels/quantized_weight.hpp), for the CPU's code and the GPU's.
#pragma once

#include <array>
#include <cstdint>

namespace dapt {

constexpr std::int64_t nf4_block = 64;  ///< values that share a scale

/// What the codes of nf4 mean before scaling: bitsandbytes' table, in fp32.
inline constexpr std::array<float, 16> nf4_table = {-1.0f,
                                                    -0.6961928009986877f,
                                                    -0.5250730514526367f,
                                                    -0.39491748809814453f,
                                                    -0.28444138169288635f,
                                                    -0.18477343022823334f,
                                                    -0.09105003625154495f,
                                                    0.0f,
                                                    0.07958029955625534f,
                                                    0.16093020141124725f,
                                                    0.24611230194568634f,
                                                    0.33791524171829224f,
                                                    0.44070982933044434f,
                                                    0.5626170039176941f,
                                                    0.7229568362236023f,
                                                    1.0f};

namespace detail {

inline constexpr float int8_unit = 7.874015718698502e-3f;  // 1 / 127, as bitsandbytes writes it

}  // namespace detail
}  // namespace dapt
