#pragma once

#include <span>
#include <string_view>

#include <dapt/io/tensor_pickle.hpp>

namespace dapt::fuzz {

/// The pickle of a .bin by itself: inside the archive few changes of it get past the archive's own rules.
inline void tensor_pickle(std::string_view bytes) { detail::TensorPickle(std::as_bytes(std::span(bytes)), "data.pkl").read(); }

}  // namespace dapt::fuzz
