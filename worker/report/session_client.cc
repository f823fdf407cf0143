#include "worker/report/session_client.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "base/file.h"
#include "base/log.h"
#include "emoe/v1/worker_control_service.grpc.pb.h"
#include "worker/report/report_queue.h"
#include "worker/report/session_connection.h"
#include "worker/report/session_messages.h"
#include "worker/report/stop_sources.h"

namespace emoe::worker {
namespace {

using Stream = grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>;

// True when the coordinator refuses this rank; false when the connection just broke.
bool is_refusal(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::FAILED_PRECONDITION:  // a newer attempt runs, or the job has ended
    case grpc::StatusCode::INVALID_ARGUMENT:     // rank or world size differ from the plan
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::UNIMPLEMENTED:
      return true;
    default:
      return false;
  }
}

StopRequest request_of(v1::Command::Kind kind) {
  switch (kind) {
    case v1::Command::STOP:
      return StopRequest::stop;
    case v1::Command::CHECKPOINT_AND_STOP:
      return StopRequest::checkpoint_and_stop;
    default:
      return StopRequest::none;
  }
}

class GrpcSession final : public SessionClient {
 public:
  GrpcSession(Config config, Timer& timer)
      : config_(std::move(config)),
        timer_(timer),
        disconnected_since_(timer.now()),
        phase_since_(timer.now()),
        thread_([this](const std::stop_token& stop) { run(stop); }) {}

  void on(const Event& event) override {
    const std::lock_guard lock(mutex_);
    std::visit([this](const auto& what) { report_locked(what); }, event);
  }

  void before_checkpoint() override {
    std::string unacked;
    {
      const std::lock_guard lock(mutex_);
      unacked = unacked_locked();
    }
    leave(unacked);
  }

  void on_work_done() override { work_done_.fetch_add(1, std::memory_order_relaxed); }

  StopRequest poll() override {
    const std::lock_guard lock(mutex_);
    if (refused_) return StopRequest::stop;
    return stronger(grace_is_over_locked() ? StopRequest::checkpoint_and_stop : StopRequest::none,
                    command_);
  }

  std::optional<double> clock_difference() override {
    const std::lock_guard lock(mutex_);
    return clock_difference_;
  }

  bool peer_lost() override {
    const std::lock_guard lock(mutex_);
    return refused_ || grace_is_over_locked();
  }

  bool finish(int exit_code, const std::string& message,
              std::chrono::milliseconds timeout) override {
    EndRecord end{exit_code, message, std::nullopt};
    if (config_.usage) end.usage = config_.usage();
    std::unique_lock lock(mutex_);
    push_locked(end);
    const auto deadline = timer_.now() + timeout;
    while (!queue_.empty() && !refused_ && !is_away_locked() && timer_.now() < deadline) {
      const auto given_up =
          disconnected_since_ ? *disconnected_since_ + config_.reconnect_grace : SteadyTime::max();
      timer_.wait_until(lock, changed_, {}, std::min(deadline, given_up));
    }
    closing_ = true;
    changed_.notify_all();
    leave(unacked_locked());
    return queue_.empty();
  }

 private:
  void report_locked(const PlanRecord& plan) {
    steps_planned_ = plan.steps_planned;
    step_ = plan.first_step;
    progress_phase_.clear();  // reported anew, with the number of steps
    enter_locked(phase_);
  }
  void report_locked(Phase phase) { enter_locked(phase); }
  void report_locked(const StepRecord& record) {
    step_ = record.step + 1;
    push_of_job_locked(record);
  }
  // Each report is stored: not more than one for a percent, nor one a second.
  void report_locked(const EvalProgress& progress) {
    const auto percent = static_cast<int>(100 * progress.done / progress.planned);
    const auto now = timer_.now();
    if (percent == percent_ || now - percent_reported_ < std::chrono::seconds(1)) return;
    percent_ = percent;
    percent_reported_ = now;
    push_of_job_locked(PhaseRecord{to_progress_phase(phase_), steps_planned_, percent});
  }
  void report_locked(const EvalRecord& record) { push_of_job_locked(record); }
  void report_locked(const CheckpointRecord& record) { push_of_job_locked(record); }
  void report_locked(const MergeRecord& record) { push_of_job_locked(record); }
  void report_locked(const PreflightRecord& record) { push_of_job_locked(record); }
  void report_locked(const ResumeRecord& resume) {
    push_locked(Message{to_string(resume)});
    push_of_job_locked(resume);
  }
  void report_locked(const Message& message) { push_locked(message); }
  void report_locked(const Warnings& warnings) {
    for (const Warning& warning : warnings) push_of_job_locked(warning);
  }
  void report_locked(const CheckpointFailure& failure) { push_locked(failure); }
  void report_locked(const NonFiniteStep& /*step*/) {}  // ends the run: the End report says it
  void report_locked(const ExpertLoad& /*load*/) {}     // served by this rank's /metrics

  template <typename Record>
  void push_locked(const Record& record) {
    v1::Report report;
    fill(report, record);
    queue_.push(std::move(report));
    changed_.notify_all();
  }

  // All ranks know it; only rank 0 reports it.
  template <typename Record>
  void push_of_job_locked(const Record& record) {
    if (config_.rank == 0) push_locked(record);
  }

  void enter_locked(Phase phase) {
    // A heartbeat at once after a long phase, so that the coordinator does not take it for a hang.
    const auto now = timer_.now();
    if (now - phase_since_ > config_.heartbeat_interval) heartbeat_due_ = now;
    phase_ = phase;
    phase_since_ = now;
    const PhaseRecord progress{to_progress_phase(phase), steps_planned_};
    if (progress_phase_ != progress.phase) {
      push_of_job_locked(progress);
      percent_ = 0;
      percent_reported_ = now;
    }
    progress_phase_ = progress.phase;
    changed_.notify_all();
  }

  // Empty where all arrived or none is wanted.
  std::string unacked_locked() const {
    if (config_.unacked_file.empty() || refused_) return "";
    return to_delimited(queue_.unacked());
  }

  void leave(const std::string& reports) const {
    if (reports.empty()) return;
    const Status status = write_file_atomically(config_.unacked_file, reports);
    if (!status.ok()) {
      log_warning("reports that the coordinator has not stored are not on the disk either: %s",
                  std::string(status.message()));
    }
  }

  template <typename Condition>
  void wait_locked(std::unique_lock<std::mutex>& lock, const std::stop_token& stop,
                   SteadyTime deadline, const Condition& condition) {
    while (!condition() && !stop.stop_requested() && timer_.now() < deadline) {
      timer_.wait_until(lock, changed_, stop, deadline);
    }
  }

  // No coordinator is here, nor was one for all the time that it had to come back.
  bool is_away_locked() const {
    return disconnected_since_ && timer_.now() - *disconnected_since_ >= config_.reconnect_grace;
  }

  // Sticky: after one expired grace the rank ends even if the coordinator returns.
  bool grace_is_over_locked() {
    if (!abandoned_ && is_away_locked()) {
      log_warning("no coordinator at %s; this rank ends", config_.address);
      abandoned_ = true;
    }
    return abandoned_;
  }

  [[nodiscard]] std::string refusal_text(const grpc::Status& status) const {
    const bool stranger = status.error_code() == grpc::StatusCode::NOT_FOUND;
    return absl::StrCat(
        "the coordinator at ", config_.address, " refuses this rank: ", status.error_message(),
        stranger ? "; it is another coordinator than the one that started this rank, or the job "
                   "was deleted"
                 : "",
        "; this rank ends");
  }

  // The session's thread: connection after connection.
  void run(const std::stop_token& stop) {
    auto pause = config_.backoff_min;
    while (!stop.stop_requested()) {
      const grpc::Status status = connect(stop);
      std::unique_lock lock(mutex_);
      if (closing_ || stop.stop_requested()) return;
      if (std::exchange(welcomed_, false)) {
        pause = config_.backoff_min;
        disconnected_since_ = timer_.now();
        changed_.notify_all();  // finish() counts from here
      }
      if (is_refusal(status)) {
        log_warning("%s", refusal_text(status));
        refused_ = true;
        changed_.notify_all();
        return;
      }
      log_info("session with %s: %s; trying again in %d ms", config_.address,
               status.ok() ? "closed" : status.error_message(), static_cast<int>(pause.count()));
      wait_locked(lock, stop, timer_.now() + pause, [this] { return closing_; });
      pause = std::min(pause * 2, config_.backoff_max);
    }
  }

  grpc::Status connect(const std::stop_token& stop) {
    const auto stub = v1::WorkerControl::NewStub(session_channel(config_));
    grpc::ClientContext context;
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const std::unique_ptr<Stream> stream = stub->Session(&context);
    v1::WorkerMessage join;
    *join.mutable_join() = to_join(config_);
    {
      const std::lock_guard lock(mutex_);
      broken_ = false;
      joined_at_ = std::chrono::system_clock::now();
    }
    if (stream->Write(join)) {
      const std::jthread reader([this, &stream] { read(*stream); });
      if (!write(*stream, stop)) context.TryCancel();
    }
    return stream->Finish();
  }

  // Until the stream breaks. True when everything was said and the coordinator closed it in turn.
  bool write(Stream& stream, const std::stop_token& stop) {
    {
      std::unique_lock lock(mutex_);
      wait_locked(lock, stop, timer_.now() + config_.welcome_timeout,
                  [this] { return welcomed_ || broken_ || closing_; });
      if (broken_) return true;  // the status says why
      if (!welcomed_) return false;
      heartbeat_due_ = timer_.now();
    }
    while (const auto message = next_message(stop)) {
      if (!stream.Write(*message)) return true;
    }
    stream.WritesDone();
    std::unique_lock lock(mutex_);
    constexpr auto kCloseTimeout = std::chrono::seconds(1);
    wait_locked(lock, stop, timer_.now() + kCloseTimeout, [this] { return broken_; });
    return broken_;
  }

  // The next thing to say, as soon as there is one; nothing when the connection is over.
  std::optional<v1::WorkerMessage> next_message(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    v1::WorkerMessage message;
    while (!broken_ && !stop.stop_requested()) {
      if (const v1::Report* report = queue_.next()) {
        *message.mutable_report() = *report;
        return message;
      }
      if (closing_) return std::nullopt;
      if (timer_.now() >= heartbeat_due_) {
        *message.mutable_heartbeat() = heartbeat_locked();
        heartbeat_due_ = timer_.now() + config_.heartbeat_interval;
        return message;
      }
      timer_.wait_until(lock, changed_, stop, heartbeat_due_);
    }
    return std::nullopt;
  }

  // The coordinator's answer was made at about half of the time that it took.
  void measure_clock_locked(const google::protobuf::Timestamp& time) {
    using Seconds = std::chrono::duration<double>;
    const auto now = std::chrono::system_clock::now();
    const double ours =
        (Seconds(joined_at_.time_since_epoch()) + Seconds(now.time_since_epoch())).count() / 2;
    clock_difference_ = static_cast<double>(time.seconds()) + 1e-9 * time.nanos() - ours;
  }

  v1::RankHeartbeat heartbeat_locked() {
    v1::RankHeartbeat heartbeat;
    heartbeat.set_step(step_);
    heartbeat.set_phase(to_string(phase_));
    heartbeat.set_work_done(work_done_.load(std::memory_order_relaxed));
    if (config_.counters != nullptr) {
      heartbeat.set_comm_sequence(config_.counters->started);
      heartbeat.set_comm_completed(config_.counters->completed);
      heartbeat.set_comm_op(config_.counters->operation);
    }
    return heartbeat;
  }

  void read(Stream& stream) {
    v1::CoordinatorMessage message;
    while (stream.Read(&message)) {
      const std::lock_guard lock(mutex_);
      if (message.has_welcome()) {
        queue_.ack(message.welcome().committed_sequence());
        queue_.rewind();
        if (message.welcome().has_time()) measure_clock_locked(message.welcome().time());
        welcomed_ = true;
        disconnected_since_.reset();
      } else if (message.has_ack()) {
        queue_.ack(message.ack().sequence());
      } else if (message.has_command()) {
        command_ = stronger(command_, request_of(message.command().kind()));
      }
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    broken_ = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  const Config config_;
  Timer& timer_;
  ReportQueue queue_;
  StopRequest command_ = StopRequest::none;
  bool refused_ = false;  // by the coordinator
  bool abandoned_ = false;
  std::optional<SteadyTime> disconnected_since_;  // nothing while connected
  std::chrono::system_clock::time_point joined_at_;
  std::optional<double> clock_difference_;
  bool welcomed_ = false;  // on this connection
  bool broken_ = false;    // this connection
  bool closing_ = false;   // finish() was called
  Phase phase_ = Phase::prepare;
  std::string progress_phase_;
  int percent_ = 0;  // of this phase, as reported
  SteadyTime percent_reported_;
  SteadyTime phase_since_;
  SteadyTime heartbeat_due_;
  int64_t step_ = 0;
  int64_t steps_planned_ = 0;
  std::atomic<int64_t> work_done_{0};
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace

std::unique_ptr<SessionClient> make_session_client(SessionClient::Config config, Timer& timer) {
  return std::make_unique<GrpcSession>(std::move(config), timer);
}

}  // namespace emoe::worker
