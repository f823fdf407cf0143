#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include <grpcpp/support/server_callback.h>

#include "emoe/v1/worker_control_service.grpc.pb.h"
#include "server/control/session_manager.h"

namespace emoe::server {

// WorkerControl on the wire: one object per rank's stream hands its messages to the controller and
// the controller's answers back. Holds no state of jobs. An internal error ends only the stream it
// happens in, with INTERNAL. Thread-safe.
class WorkerControlHandler final : public v1::WorkerControl::CallbackService {
 public:
  // Takes what the ranks send; returns at once.
  using Sink = std::function<void(SessionMessage)>;
  explicit WorkerControlHandler(Sink sink);
  ~WorkerControlHandler() override;

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;

  // Ends all streams with this status, and every later one at once; ranks reconnect.
  void drain(const Status& status);
  [[nodiscard]] size_t streams() const;

 private:
  class Stream;
  void forget(const Stream* stream);

  const Sink sink_;
  mutable std::mutex mutex_;
  std::unordered_map<const Stream*, std::shared_ptr<Stream>> streams_;
  std::optional<Status> draining_;
};

}  // namespace emoe::server
