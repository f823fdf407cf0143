#include "worker/comm/broadcast_text.h"

namespace emoe::worker {

std::string broadcast_text(Communicator& comm, std::string text, int root) {
  auto size = static_cast<uint64_t>(text.size());
  comm.broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  text.resize(size);
  comm.broadcast(std::as_writable_bytes(std::span(text.data(), text.size())), root);
  return text;
}

}  // namespace emoe::worker
