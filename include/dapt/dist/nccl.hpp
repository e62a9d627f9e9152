// Tensors of GPUs between processes, by NCCL. For programs that are compiled and linked with CUDA's toolkit and NCCL (DAPT_CUDA): no other header of dapt includes this one.
#pragma once

#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL  // what c10d's header asks for before it declares anything
#endif

#include <chrono>
#include <cstdlib>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace dapt {

/// For ProcessGroup: each rank's tensors lie on a GPU of its own. An operation that another rank holds up throws when the timeout is over, as Gloo's do; for that, waiting for it holds the calling thread
/// until it is done, unless TORCH_NCCL_BLOCKING_WAIT says otherwise: then c10d ends the process, without a word on who failed.
inline c10::intrusive_ptr<c10d::Backend> nccl_backend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout) {
  ::setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);  // an option of c10d's that can be given in no other way
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(store), rank, size, options);
}

}  // namespace dapt
