#include "tests/worker/report/fake_coordinator.h"

#include <chrono>

#include "base/check.h"

namespace emoe::worker {

void FakeCoordinator::start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  EMOE_CHECK(server_ != nullptr);
}

void FakeCoordinator::stop() {
  if (server_) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeCoordinator::refuse_with(grpc::Status status) {
  const std::lock_guard lock(mutex_);
  refusal_ = std::move(status);
}

void FakeCoordinator::break_after(int64_t sequence) {
  const std::lock_guard lock(mutex_);
  break_after_ = sequence;
}

void FakeCoordinator::send(v1::Command::Kind command) {
  const std::lock_guard lock(mutex_);
  v1::CoordinatorMessage message;
  message.mutable_command()->set_kind(command);
  if (stream_ != nullptr) stream_->Write(message);
}

std::vector<v1::Report> FakeCoordinator::stored() const {
  const std::lock_guard lock(mutex_);
  return stored_;
}
std::vector<v1::Join> FakeCoordinator::joins() const {
  const std::lock_guard lock(mutex_);
  return joins_;
}
std::vector<v1::RankHeartbeat> FakeCoordinator::heartbeats() const {
  const std::lock_guard lock(mutex_);
  return heartbeats_;
}
int FakeCoordinator::clean_ends() const {
  const std::lock_guard lock(mutex_);
  return clean_ends_;
}
bool FakeCoordinator::saw_gap() const {
  const std::lock_guard lock(mutex_);
  return saw_gap_;
}

bool FakeCoordinator::wait(const std::function<bool(const FakeCoordinator&)>& condition) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return condition(*this); });
}

bool FakeCoordinator::take(const v1::WorkerMessage& message, Stream& stream) {
  if (message.has_heartbeat()) heartbeats_.push_back(message.heartbeat());
  if (!message.has_report()) return true;
  const auto next = static_cast<int64_t>(stored_.size()) + 1;
  const int64_t sequence = message.report().sequence();
  if (sequence > next) saw_gap_ = true;
  if (sequence == next) stored_.push_back(message.report());
  if (sequence == break_after_) return break_after_ = 0, false;
  v1::CoordinatorMessage ack;
  ack.mutable_ack()->set_sequence(static_cast<int64_t>(stored_.size()));
  stream.Write(ack);
  return true;
}

grpc::Status FakeCoordinator::Session(grpc::ServerContext* context, Stream* stream) {
  v1::WorkerMessage message;
  if (!stream->Read(&message) || !message.has_join()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "no join"};
  }
  {
    const std::lock_guard lock(mutex_);
    joins_.push_back(message.join());
    changed_.notify_all();
    if (!refusal_.ok()) return refusal_;
    v1::CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_committed_sequence(static_cast<int64_t>(stored_.size()));
    stream->Write(welcome);
    stream_ = stream;
  }
  bool open = true;
  while (open && stream->Read(&message)) {
    const std::lock_guard lock(mutex_);
    open = take(message, *stream);
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  stream_ = nullptr;
  if (!open) return {grpc::StatusCode::UNAVAILABLE, "broken on purpose"};
  if (!context->IsCancelled()) ++clean_ends_;
  changed_.notify_all();
  return grpc::Status::OK;
}

}  // namespace emoe::worker
