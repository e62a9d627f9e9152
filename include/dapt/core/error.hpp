// The one exception of the library and the two ways to throw it.
// A message names the file, line or byte, tensor or option, what was found and what was expected.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dapt {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws dapt::Error, or a kind of it, with the parts written one after the other.
template <class Kind = Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Kind(message.str());
}

/// Throws as `fail` does unless `condition` holds; the message is only formatted then.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]] fail(parts...);
}

}  // namespace dapt
