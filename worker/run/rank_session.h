#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/file_lock.h"
#include "worker/device/device.h"
#include "worker/eval/suite_evaluation.h"
#include "worker/model/model.h"
#include "worker/run/commands.h"
#include "worker/run/content_hash.h"
#include "worker/run/job_error.h"
#include "worker/run/job_plan.h"
#include "worker/run/output_folder.h"
#include "worker/run/prepare.h"
#include "worker/run/rank_environment.h"
#include "worker/run/rank_groups.h"
#include "worker/run/reporting.h"
#include "worker/run/task.h"

namespace emoe::worker {

// One rank of one job, whatever its task is. The session claims the output folder, prepares the
// inputs, joins the ranks, checks that all of them prepared the same, lets the task run, and makes
// sure that its reports have arrived before the ranks leave together. Used by one thread.
class RankSession {
 public:
  // Reads the plan. Throws JobError 64 or 65 (see plan_job), and 64 for a number of ranks or a device
  // that is not there.
  RankSession(const RunRequest& request, const RankEnvironment& environment);

  // Runs `task` in this session; once. The exit code is done, preempted or peer_lost; every other
  // end is an exception, reported to the coordinator before it is thrown on.
  [[nodiscard]] ExitCode run(const Task& task);

  // For the task, while run() runs it.
  [[nodiscard]] const JobPlan& plan() const { return plan_; }
  [[nodiscard]] const OutputFolder& out() const { return out_; }
  [[nodiscard]] const std::filesystem::path& cache_dir() const { return cache_dir_; }
  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] at::Device device() const { return device_; }
  [[nodiscard]] const Prepared& prepared() const { return *prepared_; }
  [[nodiscard]] RankGroups& groups() { return *groups_; }
  [[nodiscard]] ProgressSink& progress() { return reporting_->sink(); }
  [[nodiscard]] StopSource& stop() { return reporting_->stop(); }
  [[nodiscard]] const RankEnvironment& environment() const { return environment_; }
  [[nodiscard]] std::optional<double> coordinator_clock_difference() {
    constexpr std::chrono::seconds kPatience{3};
    return reporting_->clock_difference(kPatience);
  }
  // The plan's model: its base's weights, its experts, its adapter, and of a training run what it
  // trains. An adapter that does not fit the model is a JobError 65, one that does not fit the job's
  // settings 64.
  [[nodiscard]] std::unique_ptr<Model> make_model();
  // This rank's share of the plan's suite; nothing without one. Collective over the ranks that share
  // the rows.
  [[nodiscard]] std::optional<SuiteEvaluation> make_suite_evaluation();
  // ABORTED when a file of the base model changed since it was hashed.
  [[nodiscard]] Status check_model_unchanged() const { return hasher_->check_model_unchanged(); }
  // Tells the user; with data.strict ABORTED, with all of them, if there is any.
  [[nodiscard]] Status warn(const Warnings& warnings);
  // Rank 0 writes the output folder.
  [[nodiscard]] bool is_first() const { return environment_.rank == 0; }

 private:
  ExitCode run_in_session(const Task& task);
  TaskResult run_task(const Task& task);
  [[nodiscard]] DeviceShown shown_device();
  void claim();
  void prepare_inputs();
  void join_ranks();

  RankEnvironment environment_;
  OutputFolder out_;
  JobPlan plan_;
  std::filesystem::path cache_dir_;
  at::Device device_ = at::kCPU;
  std::atomic<bool> device_begun_ = false;  // its allocator may be asked
  int threads_ = 1;
  std::optional<FileLock> lock_;  // held until this process ends
  std::shared_ptr<CollectiveCounters> counters_ = std::make_shared<CollectiveCounters>();
  std::optional<RankGroups> groups_;
  std::optional<Reporting> reporting_;   // its threads read counters_ and the device's memory
  std::optional<ContentHasher> hasher_;  // reports its work
  std::optional<Prepared> prepared_;
};

}  // namespace emoe::worker
