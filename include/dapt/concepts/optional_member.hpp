// Optional members of policies. One that lacks a const or returns another type could not be called where it is looked for, and would be passed over as if it were not there; the checks refuse it instead.
#pragma once

#include <concepts>

namespace dapt::detail {

/// `Call<T>` is the type of a call on a T. Where that call can be made at all, it can be made on a const T, which is what callers have, and its type is one of `Results`.
template <template <class> class Call, class T, class... Results>
concept OptionalMember = !requires { typename Call<T>; } || requires { requires(std::same_as<Call<const T>, Results> || ...); };

}  // namespace dapt::detail
