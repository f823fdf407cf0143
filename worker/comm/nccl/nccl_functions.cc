// A part of libemoe_cuda.so, and of the test that puts stand-ins in the place of both libraries.
#include "worker/comm/nccl/nccl_functions.h"

namespace emoe::worker {
namespace {

constexpr NcclFunctions kFunctions = {cuda::kModuleVersion,
#define EMOE_NCCL_FUNCTION(name) &::name,
                                      EMOE_NCCL_FUNCTIONS(EMOE_NCCL_FUNCTION)
#undef EMOE_NCCL_FUNCTION
};

}  // namespace
}  // namespace emoe::worker

extern "C" __attribute__((visibility("default"))) const void* emoe_cuda_nccl() {
  return &emoe::worker::kFunctions;
}
