// Marks functions that nvcc compiles for the GPU as well; other compilers see ordinary functions, which tests call on the CPU.
#pragma once

#if defined(__CUDACC__)
#define DAPT_HOST_DEVICE __host__ __device__
#else
#define DAPT_HOST_DEVICE
#endif
