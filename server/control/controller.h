#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/warning.h"
#include "server/control/attempt_settlement.h"
#include "server/control/attempt_starter.h"
#include "server/control/attempt_watch.h"
#include "server/control/call_group.h"
#include "server/control/config.h"
#include "server/control/coordinator_probe.h"
#include "server/control/discarded_folders.h"
#include "server/control/failure_log.h"
#include "server/control/fair_mutex.h"
#include "server/control/job_registry.h"
#include "server/control/queue_forecast.h"
#include "server/control/session_manager.h"
#include "server/scheduler/decision.h"

namespace emoe::server {

// Identifies a mutating call, so that a repeat gets the same answer; not remembered with an empty id.
struct RequestKey {
  std::string id;
  std::string method;
  std::string body_hash;
  std::string scope = {};  // the project of its caller: other projects' ids are other ids

  // Under which it is stored.
  [[nodiscard]] std::string stored_id() const {
    return id.empty() || scope.empty() ? id : scope + '\x1f' + id;
  }
};

// Who submits a job, and below which folders its files may lie (none: anywhere).
struct Submitter {
  std::string project;
  std::string owner;
  std::vector<std::string> allowed_roots;
};

// A job that admission has let in.
struct Submission {
  v1::JobSpec spec;
  v1::JobSpec resolved;
  std::vector<Warning> warnings = {};
  v1::DataReceipt data = {};
  v1::Plan plan = {};
  Submitter by = {};
  // What `resolved`, `data` and `plan` leave out, see Recalled; null: they are whole.
  std::shared_ptr<const std::string> common = {};
};

struct JobUpdate {
  std::optional<int> priority;
  std::optional<std::string> name;
  std::optional<std::map<std::string, std::string>> labels;
};

// The coordinator without gRPC: owns every unfinished job. One loop (run(), or step() in tests)
// schedules, watches and settles attempts; the calls below change jobs under the same lock and
// return only what is stored. The launcher's own thread asks the engine, so neither the loop nor a
// call waits for it. Thread-safe; `store`, `launcher`, `clock` and `probe` outlive it.
class Controller {
 public:
  Controller(ControlConfig config, JobStore& store, launcher::AsyncLauncher& launcher,
             const Clock& clock, CoordinatorProbe& probe);

  // Called first: loads the unfinished jobs and adopts their attempts. Folders left by interrupted
  // deletions are then removed in the background.
  [[nodiscard]] Status recover();
  // Where ranks find the coordinator, once the port is bound. Called before the loop starts.
  void set_coordinator_address(std::string address);
  [[nodiscard]] std::string coordinator_address();
  // `listener` gets the id of each job that has new events. It is called under the lock and must
  // return at once.
  void set_listener(std::function<void(const std::string&)> listener);

  // One round of the loop. Errors are logged; the next round tries again.
  void step();
  // Runs rounds until asked to stop: at once when a message or a call comes in, else every
  // poll_interval.
  void run(const std::stop_token& stop);

  // The first answer to this request, if it was made before (of one that answers nothing, an empty
  // job). ALREADY_EXISTS / REQUEST_ID_REUSED when it was another request.
  [[nodiscard]] Result<std::optional<v1::Job>> answered(const RequestKey& request);
  // Of a call that made several jobs.
  [[nodiscard]] Result<std::optional<std::vector<v1::Job>>> answered_all(const RequestKey& request);

  // RESOURCE_EXHAUSTED / QUEUE_FULL, QUOTA_EXCEEDED, FAILED_PRECONDITION / NOT_ENOUGH_SLOTS, for a job beside
  // `others` that come with it.
  [[nodiscard]] Status check_capacity(const Submission& submission, int others = 0);
  // A new job that is stored.
  struct Created {
    std::string id;
    std::string bytes;  // of its v1::Job, as it is then, or of the first answer to this request
  };
  // Returns at once; `done` is called in a thread of the controller's when the job is stored, or is not
  // going to be. It must not wait. What waits at one time is stored in one commit.
  void create(Submission submission, RequestKey request, std::function<void(Result<Created>)> done);
  // The same, and waits for it.
  [[nodiscard]] Result<v1::Job> create(Submission submission, const RequestKey& request);
  // Several jobs in one commit, all or none; they come back as lists have them. Waits.
  [[nodiscard]] Result<std::vector<v1::Job>> create_all(std::vector<Submission> submissions,
                                                        const RequestKey& request);
  // Where a job with this spec, submitted now, would stand.
  [[nodiscard]] v1::QueuePlan queue_plan(const v1::JobSpec& resolved);
  // NOT_FOUND, ABORTED / ETAG_MISMATCH, FAILED_PRECONDITION / WRONG_STATE.
  [[nodiscard]] Result<v1::Job> update(const std::string& id, const JobUpdate& update,
                                       const std::string& etag, const RequestKey& request);
  [[nodiscard]] Result<v1::Job> cancel(const std::string& id, const std::string& message,
                                       const RequestKey& request);
  // A job that is paused or about to be stays as it is. FAILED_PRECONDITION / WRONG_STATE where it
  // exports or has ended.
  [[nodiscard]] Result<v1::Job> pause(const std::string& id, const RequestKey& request);
  // Of a job that is PAUSED or PAUSING, else WRONG_STATE.
  [[nodiscard]] Result<v1::Job> resume(const std::string& id, const RequestKey& request);
  // What an export job will need, and what speaks against making one now.
  struct ExportRoom {
    v1::Plan plan;
    Status status;
  };
  // Errors as in the proto file; `room` counts only where a new job would be made.
  [[nodiscard]] Result<v1::Job> export_checkpoint(const std::string& id, int64_t step,
                                                  const RequestKey& request,
                                                  const ExportRoom& room = {});
  // Returns when the folders are gone; other calls do not wait for that.
  [[nodiscard]] Status remove(const std::string& id, const std::string& etag, bool delete_outputs,
                              const RequestKey& request);
  [[nodiscard]] Result<v1::Job> get(const std::string& id);
  // The end of an attempt's output. Waits for the engine, but without the lock.
  [[nodiscard]] Result<launcher::LogTail> log(const std::string& id, int attempt, size_t bytes);
  // Removes up to `most` jobs that ended before `before`, with their events and attempt folders; the
  // output folders stay. Long histories go in small pieces, and calls go on between them. How many
  // were removed.
  [[nodiscard]] Result<int> forget_ended(WallTime before, int most, const std::stop_token& stop);
  // Jobs by state.
  [[nodiscard]] std::map<v1::JobState, int> counts();
  // Adds what is only in memory: the job's place in the queue and why it waits.
  void decorate(v1::Job& job);
  // Of a page of a list: waits for the lock once.
  void decorate(std::vector<v1::Job>& jobs);

  // Takes a message of a rank's stream; returns at once.
  void post(SessionMessage message);

  struct Slots {
    int total = 0;
    int free = 0;
    std::vector<v1::HostInfo> hosts;
  };
  [[nodiscard]] Slots slots();
  // Metrics addresses of connected ranks, for service discovery.
  struct Target {
    std::string address;
    std::string job_id;
    int rank = 0;
  };
  [[nodiscard]] std::vector<Target> targets();
  [[nodiscard]] const ControlConfig& config() const { return config_; }

 private:
  // New jobs that are not stored yet.
  struct Coming {
    int jobs = 0;
    std::map<std::string, int> by_project;
  };
  [[nodiscard]] Status check_capacity_locked(const Submission& submission, const Coming& others);
  void decorate_locked(v1::Job& job);
  // Ids of other projects' jobs in what a job waits for are not its project's business.
  void hide_foreign_jobs_locked(const v1::Job& job, std::string& message);
  [[nodiscard]] Result<std::optional<RequestRecord>> first_answer(const RequestKey& request);
  // One call that makes new jobs, see controller_create.cc.
  struct Creation {
    std::vector<Submission> submissions;  // moved into the jobs, but for the warnings
    RequestKey request;
    bool as_list = false;  // the answer is that of CreateJobs
    std::function<void()> done = {};
    // What came of it: the answer to an earlier call with this request, or the new jobs.
    Status status = ok_status();
    std::optional<RequestRecord> earlier = {};
    JobRegistry::NewJobs made = {};
  };
  using Creations = std::vector<std::shared_ptr<Creation>>;
  void create_together(const CallGroup<std::shared_ptr<Creation>>::Take& take);
  void create_locked(const Creations& calls);
  [[nodiscard]] Status prepare_locked(Creation& call, Coming& coming);
  void run_creation(const std::shared_ptr<Creation>& call);
  [[nodiscard]] v1::QueuePlan queue_plan_locked(const v1::Job& job);
  [[nodiscard]] std::vector<ForecastJob> jobs_before(const QueuePlace& place) const;
  // Now; of two jobs that come in at once the first is the older one, so that they keep their order.
  [[nodiscard]] WallTime next_create_time_locked() const;
  // What every new job begins with, moved out of its submission, and its way into store and queue.
  void fill_new_job_locked(Submission& submission, v1::Job& job);
  [[nodiscard]] Result<JobEdit> edit_of_new_locked(JobRecord fresh,
                                                   const std::vector<Warning>& warnings);
  // Ended exports need the links to their checkpoints' files no longer.
  void let_checkpoints_go_locked();
  void pass_time_locked(SteadyTime now);
  void look_at_attempt_locked(LiveJob& live, SteadyTime now);
  void schedule_locked(SteadyTime now);
  [[nodiscard]] std::vector<RunningJob> running_locked();
  // Whether an attempt has done steps for min_run; of a task without steps, and of one that the engine has
  // not begun, counted from its start.
  [[nodiscard]] bool has_had_its_run(const LiveJob& live) const;
  [[nodiscard]] int slots_total() const { return static_cast<int>(config_.capacity.cpus); }
  [[nodiscard]] int slots_used_locked();
  // A job as it was answered: the bytes that are kept for a repeated request. INTERNAL where they are none.
  [[nodiscard]] static Result<v1::Job> job_of(const std::string& bytes, const RequestKey& request);
  // The row that makes a repeat of the request get the same answer, which the commit of the change
  // adds; nothing without an id.
  [[nodiscard]] std::optional<RequestRecord> record_of(const RequestKey& request,
                                                       const std::string& job_id) const;
  // Answers a call for which nothing is to be done; the answer is remembered all the same.
  [[nodiscard]] Result<v1::Job> answer_unchanged(const v1::Job& job, const RequestKey& request);
  [[nodiscard]] Status forget_locked(const std::string& id, const std::string& etag,
                                     const RequestKey& request, bool delete_outputs,
                                     DiscardedFolders& discarded);
  // WRONG_STATE while a job exports one of its checkpoints into its output folder.
  [[nodiscard]] Status check_no_export_locked(const v1::Job& trained);
  void poke();

  const ControlConfig config_;
  JobStore& store_;
  launcher::AsyncLauncher& launcher_;
  const Clock& clock_;
  CoordinatorProbe& probe_;

  FairMutex mutex_;
  FailureLog failures_;
  std::function<void(const std::string&)> listener_;
  JobRegistry jobs_;
  SessionManager sessions_;
  HostPool hosts_;
  const AttemptParts parts_;
  AttemptStarter starter_;
  AttemptSettlement settlement_;
  AttemptWatch watch_;
  std::optional<WaitReasons> reasons_;  // as of the last decision
  std::optional<SteadyTime> last_step_;
  WallTime last_created_;

  std::mutex inbox_mutex_;
  std::condition_variable_any inbox_filled_;
  std::vector<SessionMessage> inbox_;
  bool poked_ = false;
  CallGroup<std::shared_ptr<Creation>> creations_{
      [this](const auto& take) { create_together(take); }};
  std::jthread cleaner_;  // removes what earlier deletions left; last member: it stops first
};

// Takes away what a list of jobs leaves out.
void leave_for_list(v1::Job& job);

}  // namespace emoe::server
