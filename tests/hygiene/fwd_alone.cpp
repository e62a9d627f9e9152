// Compiled without LibTorch's folders: fwd.hpp must not need them.
#include <dapt/fwd.hpp>

void takes_references(const dapt::Batch&, dapt::Llama&, dapt::StepRecord*);
