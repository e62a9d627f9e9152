// Ids that a tokenizer has and a model's embedding has not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/text/tokenizer.hpp>

namespace dapt_program {

/// They are refused here: where training comes upon the first, all since the last checkpoint is lost. A tokenizer may have some, such as a padding token, as long as none is read.
class Embeddings {
 public:
  Embeddings(const std::filesystem::path& folder, const dapt::AnyTokenizer& tokenizer) : folder_(folder), tokenizer_(tokenizer), size_(dapt::LlamaConfig::from_file(folder / "config.json").vocab_size) {}

  /// As most bases do: no text need be looked at then.
  bool has_all() const { return tokenizer_.vocab_size() <= size_; }

  void require_for(const dapt::PackOptions& packing) const {
    if (packing.separator) require_one(*packing.separator, "the end-of-document token, which is put between documents (--no-eos leaves it out),");
    if (packing.bos) require_one(*packing.bos, "BOS, which is put before each document,");
  }
  void require_for(const dapt::TokenStore& store) const {
    if (has_all() || store.largest_id() < size_) return;
    for (const dapt::StoredPage& page : store.pages()) require_for_page(page);
  }
  void require_for(const std::vector<dapt::Page>& pages, int threads) const {
    if (has_all()) return;
    for (const dapt::TokenizedPage& page : pages | dapt::tokenize(tokenizer_, {.threads = threads})) require_for_page(page);
  }
  /// `what` names what has the ids: "question \"7\"".
  template <class Ids>
  void require_for(const Ids& ids, const std::string& what) const {
    for (const std::int32_t id : ids)
      if (id >= size_) require_one(id, what + " has a token, \"" + tokenizer_.decode({id}) + "\", that");
  }

 private:
  template <class Page>
  void require_for_page(const Page& page) const {
    require_for(page.input_ids, "work \"" + std::string(page.work) + "\", page " + std::to_string(page.page));
  }
  void require_one(std::int32_t id, const std::string& what) const {
    dapt::require(id < size_, folder_.string(), ": ", what, " has the id ", id, " in the tokenizer, but the model's embeddings are for 0 to ", size_ - 1, "; enlarge the model's embedding, or take the tokenizer that it was trained with");
  }

  const std::filesystem::path& folder_;
  const dapt::AnyTokenizer& tokenizer_;
  std::int64_t size_;
};

}  // namespace dapt_program
