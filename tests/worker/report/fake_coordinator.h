#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "emoe/v1/worker_control_service.grpc.pb.h"
#include "tests/support/held_port.h"

namespace emoe::worker {

// The coordinator's side of WorkerControl in memory, for one rank: stores reports by sequence, and
// loses acks, streams or itself when told to. What is stored survives stop() and start().
class FakeCoordinator final : public v1::WorkerControl::Service {
 public:
  FakeCoordinator() { start(); }
  ~FakeCoordinator() override { stop(); }

  void start();  // always on the same port
  void stop();   // breaks every stream; nobody else listens on the port
  [[nodiscard]] std::string address() const { return port_.address(); }

  void refuse_with(grpc::Status status);
  // Stores the report of this sequence, then breaks the stream instead of acking it.
  void break_after(int64_t sequence);
  void send(v1::Command::Kind command);

  [[nodiscard]] std::vector<v1::Report> stored() const;
  [[nodiscard]] std::vector<v1::Join> joins() const;
  [[nodiscard]] std::vector<v1::RankHeartbeat> heartbeats() const;
  [[nodiscard]] int clean_ends() const;  // streams the rank closed itself
  [[nodiscard]] bool saw_gap() const;
  // True once `condition` holds (evaluated under the lock after every message); false after 30 s.
  [[nodiscard]] bool wait(const std::function<bool(const FakeCoordinator&)>& condition) const;

 private:
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;
  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override;
  // False when the stream shall break.
  bool take(const v1::WorkerMessage& message, Stream& stream);

  emoe::testing::HeldPort port_;
  mutable std::recursive_mutex mutex_;
  mutable std::condition_variable_any changed_;
  std::unique_ptr<grpc::Server> server_;
  Stream* stream_ = nullptr;
  grpc::Status refusal_;
  int64_t break_after_ = 0;
  std::vector<v1::Report> stored_;
  std::vector<v1::Join> joins_;
  std::vector<v1::RankHeartbeat> heartbeats_;
  int clean_ends_ = 0;
  bool saw_gap_ = false;
};

}  // namespace emoe::worker
