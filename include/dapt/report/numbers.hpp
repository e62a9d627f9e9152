// Numbers as people read them, shared by everything that reports. A value that was not measured, which is NaN, is said so: never blank, never 0. One that was measured may be infinite: the
// perplexity of what training has ruined.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

namespace dapt::report {

inline constexpr const char* not_measured = "not measured";

/// "1234.500" with the digits asked for; "not measured" for NaN, "infinite" or "-infinite".
inline std::string fixed(double value, int digits) {
  if (std::isnan(value)) return not_measured;
  if (std::isinf(value)) return value > 0 ? "infinite" : "-infinite";
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

/// Between two measured values; none between equal ones, also where both are infinite.
inline double difference(double value, double before) { return value == before ? 0 : value - before; }

/// As `fixed`, with a sign: "+0.220", "-0.040", "0.000". Zero is what is shown as zero, so "-0.000" is never printed.
inline std::string change(double value, int digits) {
  std::string text = fixed(value, digits);
  if (std::isnan(value)) return text;
  const bool zero = std::isfinite(value) && text.find_first_of("123456789") == std::string::npos;
  if (zero) return fixed(0.0, digits);
  return value > 0 ? "+" + text : text;
}

/// "1,234,567".
inline std::string count(std::int64_t value) {
  std::string text = std::to_string(value);
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(text.size()) - 3, first = value < 0 ? 1 : 0; at > first; at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

/// Whole numbers with thousands separators; NaN and infinity as `fixed` has them.
inline std::string count(double value) {
  return std::isfinite(value) ? count(static_cast<std::int64_t>(std::llround(value))) : fixed(value, 0);
}

/// "7 s", "3:05", "1:02:03".
inline std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return not_measured;
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  char buffer[64];
  if (whole < 60) std::snprintf(buffer, sizeof buffer, "%lld s", static_cast<long long>(whole));
  else if (whole < 3600) std::snprintf(buffer, sizeof buffer, "%lld:%02lld", static_cast<long long>(whole / 60), static_cast<long long>(whole % 60));
  else std::snprintf(buffer, sizeof buffer, "%lld:%02lld:%02lld", static_cast<long long>(whole / 3600), static_cast<long long>(whole / 60 % 60), static_cast<long long>(whole % 60));
  return buffer;
}

/// "512 MiB", "1.2 GiB": binary units.
inline std::string memory(double bytes) {
  if (!std::isfinite(bytes)) return not_measured;
  const double mebibytes = bytes / (1024.0 * 1024.0);
  return mebibytes < 1000 ? fixed(mebibytes, mebibytes < 10 ? 1 : 0) + " MiB" : fixed(mebibytes / 1024.0, 2) + " GiB";
}

/// "1", "3.5".
inline std::string rank_text(double rank) { return std::isfinite(rank) && rank > 0 ? fixed(rank, rank == std::floor(rank) ? 0 : 1) : not_measured; }

}  // namespace dapt::report
