#pragma once

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "config/config.h"
#include "launcher/async_launcher.h"
#include "server/control/controller.h"
#include "server/job/job_store.h"
#include "tests/format/model_folder.h"
#include "tests/launcher/fake_launcher.h"
#include "tests/metrics/fake.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {

// A model folder and data files that admission accepts: a batch of small_spec().
inline void write_inputs(const std::filesystem::path& dir) {
  testing::write_model_folder(dir / "model", testing::small_config());
  std::ofstream rows(dir / "train.jsonl");
  for (int i = 0; i < 8; ++i)
    rows << R"({"instruction": "a)" << i << R"(", "input": "", "output": "b"})"
         << "\n";
}

inline v1::JobSpec small_spec(const std::filesystem::path& dir, int ranks = 1) {
  v1::JobSpec spec;
  spec.set_name("small");
  spec.mutable_model()->set_path((dir / "model").string());
  spec.mutable_model()->set_dtype("float32");  // as the folder says: nothing is to be warned of
  spec.mutable_data()->set_train((dir / "train.jsonl").string());
  spec.mutable_data()->set_max_length(512);  // a row with its template, in bytes
  spec.mutable_train()->set_global_batch(8);
  spec.mutable_train()->set_max_steps(4);
  spec.mutable_parallel()->set_ranks(ranks);
  return spec;
}

inline v1::RankInfo make_rank_info(int rank, int world_size, const std::string& host = "n1") {
  v1::RankInfo info;
  info.set_rank(rank);
  info.set_world_size(world_size);
  info.set_host(host);
  return info;
}

inline v1::Join make_join(const std::string& id, int attempt, const std::string& token, int rank,
                          int ranks) {
  v1::Join join;
  join.set_job_id(id);
  join.set_attempt(attempt);
  join.set_token(token);
  *join.mutable_rank() = make_rank_info(rank, ranks);
  return join;
}

inline v1::RankHeartbeat make_heartbeat(int64_t step, const std::string& phase, int64_t started,
                                        int64_t completed, const std::string& operation = "") {
  v1::RankHeartbeat heartbeat;
  heartbeat.set_step(step);
  heartbeat.set_phase(phase);
  heartbeat.set_comm_sequence(started);
  heartbeat.set_comm_completed(completed);
  heartbeat.set_comm_op(operation);
  return heartbeat;
}

// Where an attempt goes on from; a CheckpointInfo alone is a checkpoint that was written.
struct Resumed {
  v1::CheckpointInfo from;
};
inline v1::End make_end(int exit_code, const std::string& message = "") {
  v1::End end;
  end.set_exit_code(exit_code);
  end.set_message(message);
  return end;
}

inline v1::Warning make_warning(const std::string& code, const std::string& where, int64_t count) {
  v1::Warning warning;
  warning.set_code(code);
  warning.set_text(std::to_string(count) + " rows");
  warning.set_where(where);
  warning.set_count(count);
  return warning;
}

inline void set_body(v1::Report& r, const v1::StepMetrics& b) {
  *r.mutable_step()->mutable_metrics() = b;
}
inline void set_body(v1::Report& r, const v1::EvalResult& b) {
  *r.mutable_eval() = b;
}
inline void set_body(v1::Report& r, const v1::CheckpointInfo& b) {
  *r.mutable_checkpoint() = b;
}
inline void set_body(v1::Report& r, const Resumed& b) {
  *r.mutable_resumed() = b.from;
}
inline void set_body(v1::Report& r, const v1::LogMessage& b) {
  *r.mutable_log() = b;
}
inline void set_body(v1::Report& r, const v1::PhaseChange& b) {
  *r.mutable_phase() = b;
}
inline void set_body(v1::Report& r, const v1::MergeSummary& b) {
  *r.mutable_merge() = b;
}
inline void set_body(v1::Report& r, const v1::Warning& b) {
  *r.mutable_warning() = b;
}
inline void set_body(v1::Report& r, const v1::End& b) {
  *r.mutable_end() = b;
}

template <typename Body>
v1::Report make_report(int64_t sequence, const Body& body) {
  v1::Report report;
  report.set_sequence(sequence);
  set_body(report, body);
  return report;
}

// A rank's stream without a wire: keeps what the coordinator says. The members may be read where
// no other thread drives the controller; the waits are for tests where one does.
class FakeChannel final : public SessionChannel {
 public:
  void welcome(int64_t committed) override {
    set([&] { welcomed = committed; });
  }
  void ack(int64_t sequence) override {
    set([&] { acked = sequence; });
  }
  void command(RankCommand command) override {
    set([&] { commands.push_back(command); });
  }
  void close(const Status& status) override {
    set([&] { closed = status; });
  }
  void consumed() override {
    set([&] { ++consumed_count; });
  }

  // False when the stream was closed before, or nothing came in 60 s.
  [[nodiscard]] bool wait_for_welcome() {
    return wait([&] { return welcomed.has_value(); });
  }
  [[nodiscard]] bool wait_for_ack(int64_t sequence) {
    return wait([&] { return acked >= sequence; });
  }

  std::optional<int64_t> welcomed;
  int64_t acked = 0;
  std::vector<RankCommand> commands;
  std::optional<Status> closed;
  int consumed_count = 0;

 private:
  template <typename Change>
  void set(const Change& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  template <typename Condition>
  bool wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60),
                      [&] { return closed.has_value() || condition(); });
    return condition();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
};

// A controller with a fake engine and a real store in a temporary folder.
template <typename ClockType>
class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest() {
    write_inputs(dir_.path());
    config_.state_dir = dir_ / "state";
    config_.output_root = dir_ / "outputs";
    config_.worker_program = "/opt/emoe-worker";
    config_.capacity.cpus = 2;
    config_.join_timeout = std::chrono::seconds(120);
    config_.session_timeout = std::chrono::seconds(30);
    config_.progress_timeout = std::chrono::seconds(300);
    config_.stop_grace = std::chrono::seconds(30);
    config_.reconnect_grace = std::chrono::seconds(600);
    config_.retry_pause = std::chrono::seconds(5);
  }

  void start_controller() {
    auto store = JobStore::open({config_.state_dir, {}, [this] { return before_commit_(); }});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    engine_ = std::make_unique<launcher::AsyncLauncher>(
        real_launcher(), launcher::AsyncLauncher::Config{config_.poll_interval});
    controller_ = std::make_unique<Controller>(config_, *store_, *engine_, clock_, probe_);
    ASSERT_TRUE(controller_->recover().ok());
    controller_->set_coordinator_address("127.0.0.1:7070");
  }
  // The coordinator dies; what it had only in memory is gone.
  void drop_controller() {
    controller_.reset();
    engine_.reset();
    store_.reset();
  }

  // What the controller's AsyncLauncher asks.
  virtual launcher::Launcher& real_launcher() { return launcher_; }

  // One round, on what the engine says now; what is asked of the engine is done on return. What the
  // engine says to that, and of attempts just taken up, the next round hears.
  void step() {
    engine_->work();
    controller_->step();
    engine_->work();
  }
  // Both loops, until the last is dropped.
  std::vector<std::jthread> start_loops() {
    std::vector<std::jthread> loops;
    loops.emplace_back([this](const std::stop_token& stop) { engine_->run(stop); });
    loops.emplace_back([this](const std::stop_token& stop) { controller_->run(stop); });
    return loops;
  }

  // After `good` more, the next `count` commits fail as on a full disk.
  void fail_commits(int count, int good = 0) {
    good_commits_ = good;
    failing_commits_ = count;
  }

  Result<v1::Job> create(const v1::JobSpec& spec, const RequestKey& key = {}) {
    return controller_->create({.spec = spec, .resolved = config::resolve(spec)}, key);
  }
  std::string submit(const v1::JobSpec& spec) {
    const auto job = create(spec);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->id() : "";
  }

  testing::TempDir dir_;
  ControlConfig config_;
  ClockType clock_;
  metrics::FakeRegistry registry_;
  CoordinatorProbe probe_{registry_};
  launcher::FakeLauncher launcher_;
  std::atomic<int> good_commits_ = 0;
  std::atomic<int> failing_commits_ = 0;
  std::function<Status()> before_commit_ = [this]() -> Status {
    if (failing_commits_ <= 0 || good_commits_-- > 0) return ok_status();
    --failing_commits_;
    return absl::ResourceExhaustedError("database: COMMIT: database or disk is full");
  };
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<launcher::AsyncLauncher> engine_;
  std::unique_ptr<Controller> controller_;
};

// On a fake clock, stepped by hand.
class ControllerTest : public CoordinatorTest<testing::FakeClock> {
 protected:
  void SetUp() override {
    config_.max_jobs = 4;
    config_.stop_grace = std::chrono::seconds(10);
    config_.retry_pause = std::chrono::seconds(5);
    start_controller();
  }
  void restart() {
    channels_.clear();
    drop_controller();
    start_controller();
  }

  using CoordinatorTest::submit;
  std::string submit(int ranks = 1, int priority = 0, int max_attempts = 3) {
    v1::JobSpec spec = small_spec(dir_.path(), ranks);
    spec.mutable_resources()->set_priority(priority);
    spec.mutable_resources()->set_max_attempts(max_attempts);
    return submit(spec);
  }
  v1::Job job(const std::string& id) {
    const auto found = controller_->get(id);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *found : v1::Job();
  }
  // In steps so small that the coordinator does not seem to have stood still.
  void advance(std::chrono::milliseconds by) {
    const std::chrono::milliseconds most = config_.session_timeout / 3;
    for (; by > most; by -= most) {
      clock_.advance(most);
      step();
    }
    clock_.advance(by);
    step();
  }

  std::string token(const std::string& id, int attempt) {
    for (const auto& launch : launcher_.launches()) {
      if (launch.job_id == id && launch.attempt == attempt) {
        return launch.environment.at("EMOE_ATTEMPT_TOKEN");
      }
    }
    return "";
  }
  std::shared_ptr<FakeChannel> join(const std::string& id, int rank, int ranks, int attempt = 1) {
    v1::Join request = make_join(id, attempt, token(id, attempt), rank, ranks);
    request.mutable_rank()->set_metrics_address("127.0.0.1:900" + std::to_string(rank));
    auto channel = std::make_shared<FakeChannel>();
    controller_->post({channel, request});
    step();
    channels_[rank] = channel;
    return channel;
  }
  template <typename Body>
  void report(const std::shared_ptr<FakeChannel>& channel, int64_t sequence, const Body& body) {
    controller_->post({channel, make_report(sequence, body)});
    step();
  }
  static v1::StepMetrics step_report(int64_t step, int64_t tokens = 100) {
    v1::StepMetrics metrics;
    metrics.set_step(step);
    metrics.set_loss(2.0 - 0.1 * static_cast<double>(step));
    metrics.set_tokens(tokens);
    metrics.set_seconds(0.5);
    return metrics;
  }
  static v1::PhaseChange phase(const std::string& name) {
    v1::PhaseChange change;
    change.set_phase(name);
    change.set_steps_planned(4);
    return change;
  }
  static v1::MergeSummary merge(bool verified) {
    v1::MergeSummary summary;
    summary.set_verified(verified);
    return summary;
  }
  // Everything a good single-rank attempt says, from `sequence` on.
  void finish_well(const std::string& id, const std::shared_ptr<FakeChannel>& channel,
                   int64_t sequence = 1, int attempt = 1) {
    report(channel, sequence, phase("export"));
    report(channel, sequence + 1, merge(true));
    report(channel, sequence + 2, make_end(0));
    launcher_.end(id, attempt, {});
    step();
  }
  std::vector<v1::JobState> history(const std::string& id) {
    std::vector<v1::JobState> states;
    const auto events = store_->events(id, 1, 10000);
    EXPECT_TRUE(events.ok());
    for (const v1::Event& event : *events) {
      if (event.has_state_change()) states.push_back(event.state_change().to());
    }
    return states;
  }

  std::map<int, std::shared_ptr<FakeChannel>> channels_;
};

}  // namespace emoe::server
