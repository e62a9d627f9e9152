// A SentencePiece model of a few pieces, spelled in protocol buffers.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace dapt::fuzz {

inline std::string small_sentencepiece() {
  const auto field = [](int number, const std::string& bytes) { return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes; };
  const auto piece = [&](const std::string& text, float score, int type) {
    std::string number(4, '\0');
    std::memcpy(number.data(), &score, 4);
    return field(1, field(1, text) + '\x15' + number + '\x18' + static_cast<char>(type));
  };
  std::string model = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  float score = -1;
  for (const char* text : {"\xE2\x96\x81", "a", "b", "ab", "\xE2\x96\x81" "a"}) model += piece(text, --score, 1);
  return model + field(2, std::string("\x18\x01", 2)) + field(3, std::string("\x18\x01\x20\x01\x28\x01", 6));  // unigram; identity normalizer
}

}  // namespace dapt::fuzz
