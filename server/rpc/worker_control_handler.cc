#include "server/rpc/worker_control_handler.h"

#include <chrono>
#include <deque>
#include <utility>

#include <google/protobuf/util/time_util.h>

#include "server/job/errors.h"
#include "server/rpc/grpc_status.h"

namespace emoe::server {
namespace {

// Messages of one stream that the controller may owe an answer to before reading stops: a rank that
// floods is slowed down, and the inbox stays small.
constexpr int kWindow = 64;
// Answers a rank may leave unread before its stream is given up.
constexpr size_t kLargestOutbox = 4096;

v1::Command::Kind to_wire(RankCommand command) {
  switch (command) {
    case RankCommand::stop:
      return v1::Command::STOP;
    case RankCommand::checkpoint_and_stop:
      return v1::Command::CHECKPOINT_AND_STOP;
  }
  return v1::Command::KIND_UNSPECIFIED;
}

}  // namespace

// gRPC calls On…, the controller calls the SessionChannel side; both only queue, under one mutex,
// at most one read and one write are under way, Finish comes once and after the last write.
class WorkerControlHandler::Stream final
    : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>,
      public SessionChannel,
      public std::enable_shared_from_this<Stream> {
 public:
  Stream(WorkerControlHandler& handler, grpc::CallbackServerContext* context)
      : handler_(handler), context_(context) {}

  void start() {
    const std::lock_guard lock(mutex_);
    read_locked();
  }

  void OnReadDone(bool ok) override {
    guarded([&] { ok ? take() : leave(); });
  }
  void OnWriteDone(bool ok) override {
    guarded([&] { written(ok); });
  }
  void OnCancel() override {
    guarded([&] {
      {
        const std::lock_guard lock(mutex_);
        broken_ = true;
      }
      leave();
    });
  }
  void OnDone() override {
    guarded([&] { post_closed(); });
    handler_.forget(this);
  }

  void welcome(int64_t committed_sequence) override {
    v1::CoordinatorMessage message;
    message.mutable_welcome()->set_committed_sequence(committed_sequence);
    *message.mutable_welcome()->mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
    send(std::move(message));
  }
  void ack(int64_t sequence) override {
    v1::CoordinatorMessage message;
    message.mutable_ack()->set_sequence(sequence);
    send(std::move(message));
  }
  void command(RankCommand command) override {
    v1::CoordinatorMessage message;
    message.mutable_command()->set_kind(to_wire(command));
    send(std::move(message));
  }
  void close(const Status& status) override {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    closing_ = to_grpc(status);
    advance_locked();
  }
  void consumed() override {
    const std::lock_guard lock(mutex_);
    --outstanding_;
    if (!paused_) return;
    paused_ = false;
    read_locked();
  }

 private:
  void guarded(const std::function<void()>& body) {
    const Status status = without_exceptions([&] {
      body();
      return ok_status();
    });
    if (!status.ok()) close(status);
  }

  void take() {
    SessionMessage message{shared_from_this(), SessionClosed{}};
    switch (in_.kind_case()) {
      case v1::WorkerMessage::kJoin:
        message.body = std::move(*in_.mutable_join());
        break;
      case v1::WorkerMessage::kHeartbeat:
        message.body = std::move(*in_.mutable_heartbeat());
        break;
      case v1::WorkerMessage::kReport:
        message.body = std::move(*in_.mutable_report());
        break;
      case v1::WorkerMessage::KIND_NOT_SET:
        return close(make_error(StatusCode::kInvalidArgument, "EMPTY_MESSAGE",
                                "a message of the session has no content"));
    }
    {
      const std::lock_guard lock(mutex_);
      ++outstanding_;
    }
    // Before the next read: its callback may come on another thread, and order matters.
    handler_.sink_(std::move(message));
    const std::lock_guard lock(mutex_);
    if (outstanding_ < kWindow) {
      read_locked();
    } else {
      paused_ = true;
    }
  }

  void written(bool ok) {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    outbox_.pop_front();
    if (!ok) {
      outbox_.clear();
      broken_ = true;
    }
    advance_locked();
  }

  // The rank ended its side or is gone.
  void leave() {
    post_closed();
    close(ok_status());
  }

  void post_closed() {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(told_closed_, true)) return;
    }
    handler_.sink_({shared_from_this(), SessionClosed{}});
  }

  void read_locked() {
    if (!finished_) StartRead(&in_);
  }

  void send(v1::CoordinatorMessage message) {
    const std::lock_guard lock(mutex_);
    if (closing_ || finished_ || broken_) return;
    if (outbox_.size() >= kLargestOutbox) {
      broken_ = true;
      context_->TryCancel();  // valid until OnDone, which comes after Finish
      return;
    }
    outbox_.push_back(std::move(message));
    advance_locked();
  }

  void advance_locked() {
    if (finished_ || writing_) return;
    if (!outbox_.empty() && !broken_) {
      writing_ = true;
      StartWrite(&outbox_.front());
    } else if (closing_) {
      finished_ = true;
      Finish(*closing_);
    }
  }

  WorkerControlHandler& handler_;
  grpc::CallbackServerContext* const context_;
  std::mutex mutex_;
  v1::WorkerMessage in_;
  std::deque<v1::CoordinatorMessage> outbox_;  // the front is being written while writing_
  std::optional<grpc::Status> closing_;
  int outstanding_ = 0;
  bool paused_ = false;
  bool writing_ = false;
  bool broken_ = false;
  bool finished_ = false;
  bool told_closed_ = false;
};

WorkerControlHandler::WorkerControlHandler(Sink sink) : sink_(std::move(sink)) {}

WorkerControlHandler::~WorkerControlHandler() = default;

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* WorkerControlHandler::Session(
    grpc::CallbackServerContext* context) {
  using Reactor = grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>;
  std::shared_ptr<Stream> stream;
  const Status taken = without_exceptions([&] {
    stream = std::make_shared<Stream>(*this, context);
    const std::lock_guard lock(mutex_);
    if (draining_) return *draining_;
    streams_[stream.get()] = stream;
    return ok_status();
  });
  if (!taken.ok()) return new Refusal<Reactor>(taken);
  stream->start();
  return stream.get();
}

void WorkerControlHandler::drain(const Status& status) {
  std::vector<std::shared_ptr<Stream>> open;
  {
    const std::lock_guard lock(mutex_);
    draining_ = status;
    for (const auto& [key, stream] : streams_) open.push_back(stream);
  }
  for (const auto& stream : open) stream->close(status);
}

void WorkerControlHandler::forget(const Stream* stream) {
  std::shared_ptr<Stream> last;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  last = std::move(found->second);
  streams_.erase(found);
}

size_t WorkerControlHandler::streams() const {
  const std::lock_guard lock(mutex_);
  return streams_.size();
}

}  // namespace emoe::server
