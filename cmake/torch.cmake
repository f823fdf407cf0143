# LibTorch out of the PyPI wheel, as imported targets made by hand: the wheel's own find_package(Torch)
# demands the CUDA toolkit even for a CPU build. `make deps` puts the wheel where this looks.
#
#   emoe::torch   headers, libtorch_cpu, libc10; the rpath points into the wheel
set(EMOE_PYTHON "${CMAKE_SOURCE_DIR}/build/python" CACHE PATH "virtual environment with the torch wheel")
file(GLOB EMOE_SITE_PACKAGES "${EMOE_PYTHON}/lib/python3*/site-packages")
set(EMOE_TORCH_DIR "${EMOE_SITE_PACKAGES}/torch")
if(NOT EXISTS "${EMOE_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "no LibTorch in ${EMOE_PYTHON}: run 'make deps' first (or set -DEMOE_PYTHON=DIR)")
endif()

add_library(emoe_torch INTERFACE)
add_library(emoe::torch ALIAS emoe_torch)
target_include_directories(emoe_torch SYSTEM INTERFACE
  "${EMOE_TORCH_DIR}/include" "${EMOE_TORCH_DIR}/include/torch/csrc/api/include")
target_link_libraries(emoe_torch INTERFACE
  "${EMOE_TORCH_DIR}/lib/libtorch_cpu.so" "${EMOE_TORCH_DIR}/lib/libc10.so")
# at::parallel_for is a template: without OpenMP in *our* compilation it runs its loop on one thread, and says nothing. The
# library is the wheel's own, of the same name.
target_compile_options(emoe_torch INTERFACE -fopenmp)
target_link_options(emoe_torch INTERFACE -fopenmp)
# RPATH, not RUNPATH: libtorch_cpu finds libcudart and libcupti of the wheels beside it through it.
target_link_options(emoe_torch INTERFACE
  "-Wl,--disable-new-dtags,-rpath,${EMOE_TORCH_DIR}/lib"
  "-Wl,-rpath-link,${EMOE_SITE_PACKAGES}/nvidia/cu13/lib")
