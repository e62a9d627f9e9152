// What makes two texts the same text for a person: letters without case, width and compatibility forms, white space without its kind and length.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <dapt/core/error.hpp>

namespace dapt {

/// Unicode's NFKC_Casefold ("ＡＢＣ" = "abc", "ｶﾞ" = "ガ", "Straße" = "STRASSE"; soft hyphens, zero width spaces and the like are left out), then each
/// run of white space as one space, and none at the ends.
inline std::string fold_text(std::string_view text) {
  std::string folded;
  if (std::all_of(text.begin(), text.end(), [](char byte) { return static_cast<unsigned char>(byte) < 0x80; })) {
    folded = text;
    for (char& c : folded) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  } else {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* form = icu::Normalizer2::getNFKCCasefoldInstance(status);
    require(U_SUCCESS(status), "ICU: no NFKC_Casefold data: ", u_errorName(status));
    folded.reserve(text.size());
    icu::StringByteSink<std::string> sink(&folded);
    form->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr, status);
    require(U_SUCCESS(status), "ICU: NFKC_Casefold failed: ", u_errorName(status));
  }

  std::size_t out = 0;
  bool space = false;
  const auto length = static_cast<std::int64_t>(folded.size());
  for (std::int64_t i = 0; i < length;) {
    const std::int64_t start = i;
    UChar32 c = 0;
    U8_NEXT_OR_FFFD(folded.data(), i, length, c);
    if (u_isUWhiteSpace(c)) {
      space = out > 0;
      continue;
    }
    if (space) folded[out++] = ' ';  // takes the place of at least one byte
    space = false;
    for (std::int64_t byte = start; byte < i; ++byte) folded[out++] = folded[byte];
  }
  folded.resize(out);
  return folded;
}

}  // namespace dapt
