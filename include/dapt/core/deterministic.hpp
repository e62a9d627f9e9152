// The same bits each time on a GPU. Most of LibTorch's operations there give them anyway; flash attention's gradients, sums over rows by index and a few others add in the order in which
// threads happen to come, unless LibTorch is asked for another algorithm.
#pragma once

#include <cstdlib>

#include <ATen/Context.h>

namespace dapt {

/// Asks LibTorch, for the whole process, for operations that give the same bits each time on a GPU of the same kind; one that has none throws. What a resumed run needs to be the run that was
/// never stopped. To be called before the process's first product on a GPU: cuBLAS reads its environment once, and a CUBLAS_WORKSPACE_CONFIG that the user set stays. Nothing changes on the CPU.
inline void use_deterministic_algorithms() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // LibTorch refuses products without it then; it is also the space that LibTorch gives a Hopper GPU anyway
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // would write each new tensor once more
}

}  // namespace dapt
