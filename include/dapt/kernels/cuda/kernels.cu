// The one source file of dapt, for nvcc: compile it with C++20 and link it into your program to give it dapt's own CUDA kernels.
#include <dapt/kernels/cuda/kernels.cuh>
