// Compiled where there is no CUDA toolkit; nccl_communicator.cc is the real one.
#include "worker/comm/nccl/nccl_communicator.h"

namespace emoe::worker {

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& /*host*/,
                                                     const NcclOptions& /*options*/) {
  throw CommunicationError(
      "this program was built without CUDA and NCCL: use device cpu, or build where the CUDA "
      "toolkit and nvidia-nccl are installed (-DEMOE_CUDA=ON)");
}

bool nccl_available() {
  return false;
}

int nccl_device_count() {
  return 0;
}

}  // namespace emoe::worker
