// glibc gives blocks above 32 MiB at most back to the kernel when they are freed, and takes them anew, page fault by page fault, when the next
// layer asks: most of eager training's time outside the products. Raised thresholds keep the memory in the process.
#pragma once

#include <malloc.h>

namespace dapt {

/// Call once at the start of a program that trains with glibc's allocator (linked with tcmalloc it needs less memory at the same speed): blocks of up to 1 GiB come from the heap, which keeps up to 4 GiB of what was freed.
/// Returns false where the C library refuses. A library must not decide this for its process, so nothing in dapt calls it.
inline bool keep_freed_memory() {
#if defined(__GLIBC__)
  return mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1 && mallopt(M_TRIM_THRESHOLD, 2147483647) == 1 && mallopt(M_TOP_PAD, 64 << 20) == 1;
#else
  return false;
#endif
}

}  // namespace dapt
