// The processes that train one model together, as the trainer sees them: dist/ has them on c10d, a test may have its own.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// This rank is not where the others are, or no longer has them: an operation failed, or it could not go on within one. Nothing is left but to end.
class RanksParted : public Error {
 public:
  using Error::Error;
};

/// An operation that was begun: called once, it returns when the operation is done. Throws RanksParted naming the rank that failed.
using Pending = std::function<void()>;

/// Every rank calls the same operations in the same order.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;  ///< of this process, from 0
  virtual int size() const = 0;  ///< how many processes there are
  /// For a run's header, e.g. "2 (gloo)".
  virtual std::string describe() const = 0;

  /// Begins to add `tensor` up over all ranks, in place; all get the same bits. It is neither read nor written until the result was waited for. `kind` is what its bytes are
  /// counted under.
  virtual Pending sum(Tensor tensor, std::string_view kind) = 0;
  /// Begins the same for rank `to` alone; what the others' `tensor` then holds has no meaning.
  virtual Pending sum_to(Tensor tensor, int to, std::string_view kind) = 0;
  /// Begins to give `tensor` of rank `from` to all, in place. It is contiguous, and of one type and size on all ranks.
  virtual Pending broadcast(Tensor tensor, int from, std::string_view kind) = 0;
  /// The text of every rank, on every rank.
  virtual std::vector<std::string> gather(const std::string& text) = 0;
  /// Returns when all ranks are here. Before an operation that some come to much later than others: longer than an operation may wait.
  virtual void wait_for_all() { gather(""); }
};

}  // namespace dapt
