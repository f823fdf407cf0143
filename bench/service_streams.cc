// Many streams at once: watchers of a job, and the sessions of its ranks.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "bench/service_bench.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"
#include "emoe/v1/worker_control_service.grpc.pb.h"

namespace emoe::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct StreamOptions {
  std::string server;
  std::string id;
  std::string token;
  int attempt = 1;
  int streams = 1000;
  int channels = 20;  // a connection has room for 100 streams
  int steps = 100;
  double interval = 1;
  double seconds = 10;
  std::string reporting = "first";
};

template <typename Service>
std::vector<std::unique_ptr<typename Service::Stub>> stubs_of(const StreamOptions& options) {
  std::vector<std::unique_ptr<typename Service::Stub>> stubs;
  for (int i = 0; i < options.channels; ++i) {
    grpc::ChannelArguments own;
    own.SetInt("emoe.bench.channel", i);
    stubs.push_back(Service::NewStub(
        grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), own)));
  }
  return stubs;
}

// Counts what it is told until it is cancelled.
class Watcher final : public grpc::ClientReadReactor<v1::Event> {
 public:
  Watcher(v1::FineTuning::Stub& stub, const StreamOptions& options) {
    request_.set_id(options.id);
    stub.async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.kind_case() != v1::Event::kHeartbeat) {
      ++events_;
      last_ = event_.sequence();
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    done_ = true;
    ended_.notify_all();
  }
  [[nodiscard]] int64_t last() const { return last_; }
  [[nodiscard]] int64_t events() const { return events_; }
  void stop() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return done_; });
  }

 private:
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::Event event_;
  std::atomic<int64_t> last_ = 0;
  std::atomic<int64_t> events_ = 0;
  std::mutex mutex_;
  std::condition_variable ended_;
  grpc::Status status_;
  bool done_ = false;
};

void watch(const StreamOptions& options) {
  const auto stubs = stubs_of<v1::FineTuning>(options);
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < options.streams; ++i) {
    watchers.push_back(
        std::make_unique<Watcher>(*stubs[static_cast<size_t>(i % options.channels)], options));
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(options.seconds));
  int64_t events = 0;
  int64_t first = watchers.front()->last();
  int64_t last = 0;
  for (const auto& watcher : watchers) {
    events += watcher->events();
    first = std::min(first, watcher->last());
    last = std::max(last, watcher->last());
  }
  for (const auto& watcher : watchers) watcher->stop();
  std::cout << nlohmann::json{{"watchers", options.streams},
                              {"events", events},
                              {"slowest_at", first},
                              {"fastest_at", last}}
            << std::endl;
}

// One rank's session: reports are numbered here and acknowledged by the service.
class Rank final : public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  Rank(v1::WorkerControl::Stub& stub, const StreamOptions& options, int rank) {
    stub.async()->Session(&context_, this);
    v1::WorkerMessage message;
    v1::Join& join = *message.mutable_join();
    join.set_job_id(options.id);
    join.set_attempt(options.attempt);
    join.set_token(options.token);
    join.mutable_rank()->set_rank(rank);
    join.mutable_rank()->set_world_size(options.streams);
    join.mutable_rank()->set_host("n" + std::to_string(rank / 8));
    join.mutable_rank()->set_device("cpu");
    send(std::move(message));
    StartRead(&incoming_);
    StartCall();
  }
  void send(v1::WorkerMessage message) {
    const std::lock_guard lock(mutex_);
    outbox_.push_back(std::move(message));
    if (outbox_.size() == 1) StartWrite(&outbox_.front());
  }
  void report(v1::Report report) {
    report.set_sequence(++sequence_);
    v1::WorkerMessage message;
    *message.mutable_report() = std::move(report);
    send(std::move(message));
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    const std::lock_guard lock(mutex_);
    outbox_.pop_front();
    if (!outbox_.empty()) StartWrite(&outbox_.front());
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (incoming_.has_welcome()) welcomed_ = true;
    if (incoming_.has_ack()) acked_ = incoming_.ack().sequence();
    StartRead(&incoming_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    error_ = status.error_message();
    done_ = true;
    ended_.notify_all();
  }
  [[nodiscard]] bool welcomed() const { return welcomed_; }
  [[nodiscard]] int64_t missing() const { return sequence_ - acked_; }
  [[nodiscard]] int64_t reports() const { return sequence_; }
  void stop() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return done_; });
  }

 private:
  grpc::ClientContext context_;
  v1::CoordinatorMessage incoming_;
  int64_t sequence_ = 0;
  std::atomic<bool> welcomed_ = false;
  std::atomic<int64_t> acked_ = 0;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::deque<v1::WorkerMessage> outbox_;
  std::string error_;
  bool done_ = false;
};

// Of rank 0 the step; of others, where all report, a line of their log.
v1::Report step_report(const StreamOptions& options, int rank, int step) {
  v1::Report report;
  if (rank == 0) {
    v1::StepMetrics& metrics = *report.mutable_step()->mutable_metrics();
    metrics.set_step(step);
    metrics.set_loss(2.0 / (step + 1));
    metrics.set_learning_rate(1e-4);
    metrics.set_grad_norm(0.5);
    metrics.set_tokens(4096);
    metrics.set_seconds(options.interval);
  } else {
    report.mutable_log()->set_level(v1::LogMessage::INFO);
    report.mutable_log()->set_text("step " + std::to_string(step) + " is done");
  }
  return report;
}

template <typename Condition>
double wait_for(const char* what, const Condition& condition) {
  const auto begin = Clock::now();
  while (!condition()) {
    if (Clock::now() - begin > std::chrono::minutes(2)) throw std::runtime_error(what);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What the ranks of a job say, `interval` from step to step; their words are spread over it.
void run_steps(const StreamOptions& options, std::vector<std::unique_ptr<Rank>>& ranks) {
  const auto begin = Clock::now();
  const auto interval = std::chrono::duration<double>(options.interval);
  for (int step = 0; step < options.steps; ++step) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const double part = 0.8 * static_cast<double>(rank) / static_cast<double>(ranks.size());
      if (rank % 16 == 0) {
        std::this_thread::sleep_until(
            begin + std::chrono::duration_cast<Clock::duration>(interval * (step + part)));
      }
      if (rank == 0 || options.reporting == "all") {
        ranks[rank]->report(step_report(options, static_cast<int>(rank), step));
      }
      v1::WorkerMessage beat;
      beat.mutable_heartbeat()->set_step(step);
      beat.mutable_heartbeat()->set_phase("forward");
      beat.mutable_heartbeat()->set_comm_sequence(step);
      ranks[rank]->send(std::move(beat));
    }
  }
}

void run_ranks(const StreamOptions& options) {
  const auto stubs = stubs_of<v1::WorkerControl>(options);
  std::vector<std::unique_ptr<Rank>> ranks;
  for (int i = 0; i < options.streams; ++i) {
    ranks.push_back(
        std::make_unique<Rank>(*stubs[static_cast<size_t>(i % options.channels)], options, i));
  }
  const double joined = wait_for("not every rank was welcomed", [&] {
    return std::ranges::all_of(ranks, [](const auto& rank) { return rank->welcomed(); });
  });
  std::cout << nlohmann::json{{"joined", options.streams}, {"join_seconds", joined}} << std::endl;
  const auto begin = Clock::now();
  run_steps(options, ranks);
  const double last = wait_for("not every report was acknowledged", [&] {
    return std::ranges::all_of(ranks, [](const auto& rank) { return rank->missing() == 0; });
  });
  int64_t reports = 0;
  for (const auto& rank : ranks) reports += rank->reports();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::cout << nlohmann::json{{"reports", reports},
                              {"seconds", seconds},
                              {"last_ack_seconds", last}}
            << std::endl;
  std::string line;
  std::getline(std::cin, line);  // the sessions stay until somebody has looked
  for (const auto& rank : ranks) rank->stop();
}

}  // namespace

void add_streams(CLI::App& app) {
  const auto options = std::make_shared<StreamOptions>();
  CLI::App* watch_app = app.add_subcommand("watch", "WatchJob, many times");
  CLI::App* ranks_app = app.add_subcommand("ranks", "the sessions of all ranks of an attempt");
  for (CLI::App* each : {watch_app, ranks_app}) {
    each->add_option("--server", options->server)->required();
    each->add_option("--id", options->id)->required();
    each->add_option("--streams", options->streams);
    each->add_option("--channels", options->channels);
  }
  watch_app->add_option("--seconds", options->seconds);
  watch_app->callback([options] { watch(*options); });
  ranks_app->add_option("--token", options->token)->required();
  ranks_app->add_option("--attempt", options->attempt);
  ranks_app->add_option("--steps", options->steps);
  ranks_app->add_option("--interval", options->interval);
  ranks_app->add_option("--reporting", options->reporting)->check(CLI::IsMember({"first", "all"}));
  ranks_app->callback([options] { run_ranks(*options); });
}

}  // namespace emoe::bench
