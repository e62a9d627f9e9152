# dapt::cuda_kernels: dapt's own CUDA kernels as an object library, for programs of this build: target_link_libraries(my_trainer PRIVATE dapt::dapt dapt::cuda_kernels).
# With an installed dapt a program adds the installed dapt/kernels/cuda/kernels.cu to its own sources. Without either it runs on a GPU with LibTorch's operations.
include_guard(GLOBAL)

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75 80 86 89 90)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
endif()
enable_language(CUDA)

add_library(dapt_cuda_kernels OBJECT "${PROJECT_SOURCE_DIR}/include/dapt/kernels/cuda/kernels.cu")
add_library(dapt::cuda_kernels ALIAS dapt_cuda_kernels)
target_include_directories(dapt_cuda_kernels PRIVATE "${PROJECT_SOURCE_DIR}/include")
target_link_libraries(dapt_cuda_kernels PRIVATE dapt::libtorch)
# CMake 3.25 does not know how nvcc 13 is asked for C++20.
target_compile_options(dapt_cuda_kernels PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>")
set_target_properties(dapt_cuda_kernels PROPERTIES CUDA_RUNTIME_LIBRARY None)
