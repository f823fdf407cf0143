// Compiled where there is no CUDA toolkit; nccl_group.cc is the real one.
#include "worker/comm/nccl/nccl_group.h"

namespace emoe::worker {

std::unique_ptr<DeviceGroup> make_nccl_group(HostGroup& /*host*/, const NcclOptions& /*options*/) {
  throw CommunicationError(
      "this program was built without CUDA and NCCL: use device cpu, or build where the CUDA "
      "toolkit and nvidia-nccl are installed (-DEMOE_CUDA=ON)");
}

}  // namespace emoe::worker
