// The "Precompiled" normalizer: SentencePiece's table of characters and what they become, as HF tokenizers applies it. A grapheme of less
// than six bytes is looked up first, and the shortest of its prefixes that the table has replaces all of it; otherwise each character is.
// The table: the size of a double-array trie (Yata et al. 2007, in the layout of darts-clone), the trie, and the texts, each ended by a 0.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <unicode/brkiter.h>
#include <unicode/locid.h>
#include <unicode/localpointer.h>
#include <unicode/utext.h>

#include <dapt/core/error.hpp>
#include <dapt/text/growth.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// The bytes that base64 spells. Throws dapt::Error with `where` at what is no base64.
inline std::string from_base64(std::string_view text, std::string_view where) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  std::uint32_t bits = 0;
  int count = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto value = alphabet.find(text[at]);
    require(value != alphabet.npos, where, ": no base64 at character ", at);
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count & 0xFF));
  }
  return bytes;
}

struct CharacterTable {
  std::vector<std::uint32_t> units;  // of the trie
  std::string texts;
};

/// Throws dapt::Error with `where` if the bytes do not hold the trie that they announce.
inline CharacterTable character_table(std::string_view bytes, std::string_view where) {
  require(bytes.size() >= 4, where, ": found ", bytes.size(), " bytes, expected the size of a trie");
  std::uint32_t trie_bytes = 0;
  std::memcpy(&trie_bytes, bytes.data(), 4);  // little-endian, as all of LibTorch's platforms are
  require(trie_bytes % 4 == 0 && trie_bytes > 0 && trie_bytes <= bytes.size() - 4, where, ": a trie of ", trie_bytes, " bytes in ", bytes.size());
  CharacterTable table{std::vector<std::uint32_t>(trie_bytes / 4), std::string(bytes.substr(4 + trie_bytes))};
  std::memcpy(table.units.data(), bytes.data() + 4, trie_bytes);
  return table;
}

/// Does the trie of a table stay inside its bytes, whatever text is looked up, and do its values name texts that end, within a KiB (Unicode's forms need 33 bytes)? Throws dapt::Error with `where` if
/// not.
inline void check_character_table(std::string_view bytes, std::string_view where) {
  const CharacterTable table = character_table(bytes, where);
  const std::vector<std::uint32_t>& units = table.units;
  const std::string_view texts = table.texts;
  require(texts.ends_with('\0'), where, ": no texts behind its trie, expected some, each ended by a 0");
  const auto offset = [](std::uint32_t unit) { return unit >> 10 << ((unit & (1u << 9)) >> 6); };
  std::vector<bool> seen(units.size());
  std::vector<std::uint32_t> nodes;
  const auto reach = [&](std::uint32_t node) {
    require((node | 0xFF) < units.size(), where, ": its trie leads to unit ", node, " of ", units.size());
    if (!seen[node]) nodes.push_back(node);
    seen[node] = true;
  };
  reach(offset(units[0]));
  while (!nodes.empty()) {
    const std::uint32_t node = nodes.back();
    nodes.pop_back();
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t at = node ^ byte, unit = units[at];
      if ((unit & (1u << 31 | 0xFF)) != byte) continue;
      const std::uint32_t child = at ^ offset(unit);
      reach(child);
      if ((unit >> 8 & 1) == 0) continue;
      const std::uint32_t begin = units[child] & ~(1u << 31);
      require(begin < texts.size(), where, ": its trie names a text at byte ", begin, " of ", texts.size());
      constexpr std::size_t longest = 1024;
      require(texts.substr(begin, longest + 1).find('\0') != texts.npos, where, ": its text at byte ", begin, " has more than ", longest, " bytes");
    }
  }
}

class PrecompiledStep {
 public:
  /// Throws dapt::Error with `where` if the bytes do not hold the trie that they announce.
  PrecompiledStep(std::string_view bytes, std::string_view where) {
    auto table = std::make_shared<Table>(Table{character_table(bytes, where), nullptr});
    UErrorCode status = U_ZERO_ERROR;
    table->graphemes.reset(icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
    require(U_SUCCESS(status), "grapheme clusters: ", u_errorName(status));
    table_ = std::move(table);
  }

  void operator()(std::string& text) const {
    std::string changed;
    changed.reserve(text.size());
    for_each_grapheme(text, [&](std::string_view grapheme) {
      if (grapheme.size() < 6) {
        if (const auto replacement = find(grapheme)) {
          changed.append(*replacement);
          check_growth(text.size(), changed.size());
          return;
        }
      }
      for (std::size_t at = 0; at < grapheme.size();) {
        const std::size_t begin = at;
        next_char(grapheme, at);
        const std::string_view one = grapheme.substr(begin, at - begin);
        changed.append(find(one).value_or(one));
        check_growth(text.size(), changed.size());
      }
    });
    text = std::move(changed);
  }

 private:
  struct Table : CharacterTable {
    std::unique_ptr<const icu::BreakIterator> graphemes;  // to clone from
  };

  /// What the shortest prefix in the table becomes.
  std::optional<std::string_view> find(std::string_view text) const {
    const auto& units = table_->units;
    const auto offset = [](std::uint32_t unit) { return unit >> 10 << ((unit & (1u << 9)) >> 6); };
    std::uint32_t node = offset(units[0]);
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      node ^= byte;
      if (byte == 0 || node >= units.size()) break;
      const std::uint32_t unit = units[node];
      if ((unit & (1u << 31 | 0xFF)) != byte) break;
      node ^= offset(unit);
      if (node >= units.size()) break;
      if ((unit >> 8 & 1) == 0) continue;
      const std::uint32_t begin = units[node] & ~(1u << 31);
      if (begin >= table_->texts.size()) break;
      const std::string_view rest = std::string_view(table_->texts).substr(begin);
      return rest.substr(0, rest.find('\0'));
    }
    return std::nullopt;
  }

  template <class F>
  void for_each_grapheme(std::string_view text, F&& f) const {
    UErrorCode status = U_ZERO_ERROR;
    const icu::LocalUTextPointer opened(utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &status));
    const std::unique_ptr<icu::BreakIterator> boundaries(table_->graphemes->clone());
    boundaries->setText(opened.getAlias(), status);
    require(U_SUCCESS(status), "grapheme clusters: ", u_errorName(status));
    std::size_t begin = 0;
    for (std::int32_t end = boundaries->next(); end != icu::BreakIterator::DONE; end = boundaries->next()) {
      f(text.substr(begin, static_cast<std::size_t>(end) - begin));
      begin = static_cast<std::size_t>(end);
    }
  }

  std::shared_ptr<const Table> table_;
};

}  // namespace dapt::text
