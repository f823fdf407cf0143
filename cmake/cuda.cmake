# CUDA is optional: with nvcc, the runtime and NCCL present, worker/comm/nccl and the module libemoe_cuda.so are compiled;
# without them a small stand-in that says so. Programs are linked with none of these libraries.
#
#   emoe::cuda_headers   headers of the runtime and of NCCL
#   emoe::cuda           and the libraries: for the module alone
set(EMOE_CUDA AUTO CACHE STRING "AUTO, ON or OFF: compile the CUDA and NCCL sources")
set(EMOE_HAVE_CUDA OFF)
if(NOT EMOE_CUDA STREQUAL "OFF")
  find_program(EMOE_NVCC nvcc PATHS ${EMOE_SITE_PACKAGES}/nvidia/cu13/bin /usr/local/cuda/bin)
  find_path(EMOE_CUDA_INCLUDE cuda_runtime_api.h PATHS ${EMOE_SITE_PACKAGES}/nvidia/cu13/include /usr/local/cuda/include)
  # The wheels' first: another NCCL of the same soname would be loaded instead of the one that LibTorch wants.
  find_path(EMOE_NCCL_INCLUDE nccl.h PATHS ${EMOE_SITE_PACKAGES}/nvidia/nccl/include NO_DEFAULT_PATH)
  find_path(EMOE_NCCL_INCLUDE nccl.h PATHS /usr/local/cuda/include)
  find_library(EMOE_NCCL_LIB NAMES libnccl.so.2 PATHS ${EMOE_SITE_PACKAGES}/nvidia/nccl/lib NO_DEFAULT_PATH)
  find_library(EMOE_NCCL_LIB NAMES libnccl.so.2 nccl PATHS /usr/local/cuda/lib64)
  find_library(EMOE_CUDART_LIB NAMES libcudart.so.13 PATHS ${EMOE_SITE_PACKAGES}/nvidia/cu13/lib NO_DEFAULT_PATH)
  find_library(EMOE_CUDART_LIB NAMES cudart libcudart.so.13 PATHS /usr/local/cuda/lib64)
  if(EMOE_NVCC AND EMOE_CUDA_INCLUDE AND EMOE_NCCL_INCLUDE AND EMOE_NCCL_LIB AND EMOE_CUDART_LIB)
    set(EMOE_HAVE_CUDA ON)
    # A100; H100 and H200 with what only they have; and for later ones code that their driver compiles.
    set(CMAKE_CUDA_COMPILER "${EMOE_NVCC}")
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")
    if(EMOE_CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER "${EMOE_CCACHE}")
    endif()
    set(CMAKE_CUDA_STANDARD 17)
    enable_language(CUDA)
    # nvcc has C++20, but this CMake does not know by which words.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    add_library(emoe_cuda_headers INTERFACE)
    add_library(emoe::cuda_headers ALIAS emoe_cuda_headers)
    target_include_directories(emoe_cuda_headers SYSTEM INTERFACE ${EMOE_NCCL_INCLUDE} ${EMOE_CUDA_INCLUDE})
    add_library(emoe_cuda_libraries INTERFACE)
    add_library(emoe::cuda ALIAS emoe_cuda_libraries)
    target_link_libraries(emoe_cuda_libraries INTERFACE emoe::cuda_headers ${EMOE_NCCL_LIB} ${EMOE_CUDART_LIB})
  elseif(EMOE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "EMOE_CUDA=ON, but nvcc, the CUDA runtime or NCCL is missing: nvcc=${EMOE_NVCC} "
      "cuda_runtime_api.h=${EMOE_CUDA_INCLUDE} nccl.h=${EMOE_NCCL_INCLUDE} ${EMOE_NCCL_LIB} ${EMOE_CUDART_LIB}")
  endif()
endif()
message(STATUS "CUDA and NCCL sources: ${EMOE_HAVE_CUDA}")
