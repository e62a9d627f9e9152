// Log probability of a continuation after a context, as lm-evaluation-harness 0.4.13 asks it of a causal model (api/model.py, models/huggingface.py), for
// metrics of one's own and for comparing scores with published ones.
//   split       white space at the context's end goes to the continuation; context + continuation is encoded as one text, and what is longer than
//               the context's own ids is the continuation
//   BOS         where the reference tokenizer puts one, unless the text begins with it
//   no context  BOS, else EOS, stands for it; a continuation that begins with that token gives it away as its context
//   too long    ids are cut off on the left
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/GradMode.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/metrics/encode_with_bos.hpp>
#include <dapt/metrics/normalise.hpp>
#include <dapt/metrics/scored_rows.hpp>

namespace dapt {

struct LogLikelihoodRequest {
  std::string context;       ///< may be empty
  std::string continuation;  ///< at least one token
};

struct LogLikelihood {
  double sum = 0;           ///< natural logarithm, over the continuation's tokens
  std::int64_t tokens = 0;  ///< of the continuation
};

struct LogLikelihoodOptions {
  std::int64_t max_length = 2048;    ///< tokens that the model reads: its max_position_embeddings
  std::int64_t batch_tokens = 1024;  ///< of one batch, padding included; 1: one request at a time
};

namespace metrics {

/// The ids of context and continuation, the second ones to be scored.
struct EncodedPair {
  std::vector<std::int32_t> context, continuation;
};

template <Tokenizer K>
EncodedPair encode_pair(const K& tokenizer, const LogLikelihoodRequest& request) {
  EncodedPair pair;
  if (request.context.empty()) {
    const SpecialTokens& special = tokenizer.special_tokens();
    const auto prefix = special.bos ? special.bos : special.eos;
    require(prefix.has_value(), "log_likelihoods: the tokenizer has neither BOS nor EOS to stand for an empty context");
    pair.continuation = tokenizer.encode(request.continuation, SpecialText::as_tokens);
    pair.context = {*prefix};
    if (!pair.continuation.empty() && pair.continuation.front() == *prefix) pair.continuation.erase(pair.continuation.begin());
  } else {
    std::size_t end = 0;  // of the context without white space at its end
    for_each_char(request.context, [&](UChar32 c, std::size_t, std::size_t after) { end = is_space(c) ? end : after; });
    const std::string whole = request.context + request.continuation;
    pair.context = encode_with_bos(tokenizer, std::string_view(whole).substr(0, end));
    const std::vector<std::int32_t> ids = encode_with_bos(tokenizer, whole);
    pair.continuation.assign(ids.begin() + static_cast<std::ptrdiff_t>(std::min(pair.context.size(), ids.size())), ids.end());
    require(!pair.context.empty(), "log_likelihoods: the context \"", request.context, "\" has no token but white space; give an empty one");
  }
  require(!pair.continuation.empty(), "log_likelihoods: the continuation \"", request.continuation, "\" after \"", request.context, "\" has no token");
  return pair;
}

}  // namespace metrics

/// One result for each request, in their order. Throws dapt::Error on a continuation without tokens or with more than max_length, and where nothing can
/// stand for an empty context.
template <CausalLM M, Tokenizer K>
std::vector<LogLikelihood> log_likelihoods(M& model, const K& tokenizer, std::span<const LogLikelihoodRequest> requests, const LogLikelihoodOptions& options = {}) {
  const c10::AutoGradMode no_gradient(false);
  require(options.max_length >= 1, "log_likelihoods: max_length is ", options.max_length, ", expected at least 1");
  std::vector<metrics::ScoredRow> rows;
  std::vector<LogLikelihood> results;
  for (const LogLikelihoodRequest& request : requests) {
    const auto [context, continuation] = metrics::encode_pair(tokenizer, request);
    require(std::ssize(continuation) <= options.max_length, "log_likelihoods: the continuation \"", request.continuation, "\" has ", continuation.size(),
            " tokens, expected at most ", options.max_length);
    std::vector<std::int32_t> ids = context;
    ids.insert(ids.end(), continuation.begin(), continuation.end());
    ids.erase(ids.begin(), ids.end() - std::min(std::ssize(ids), options.max_length + 1));
    metrics::ScoredRow row{{ids.begin(), ids.end() - 1}, {ids.begin() + 1, ids.end()}};
    std::fill(row.labels.begin(), row.labels.end() - std::ssize(continuation), static_cast<std::int32_t>(ignore_index));
    rows.push_back(std::move(row));
    results.push_back({0, std::ssize(continuation)});
  }
  const std::vector<double> sums = metrics::sum_log_probs(model, rows, options.batch_tokens);
  for (std::size_t r = 0; r < results.size(); ++r) results[r].sum = sums[r];
  return results;
}

}  // namespace dapt
