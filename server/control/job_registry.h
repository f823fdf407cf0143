#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/pace.h"
#include "server/control/config.h"
#include "server/job/job_state_machine.h"
#include "server/job/job_store.h"
#include "server/job/types.h"
#include "server/scheduler/job_queue.h"
#include "server/session/attempt_monitor.h"
#include "server/session/session_channel.h"

namespace emoe::server {

// One rank's stream, while it is connected.
struct RankLink {
  std::shared_ptr<SessionChannel> channel;
  int64_t sequence = 0;  // reports up to here are stored
};

// Progress of an attempt that is not stored.
struct StepProgress {
  bool begun = false;  // its first step is stored
  Pace pace;
};

// The attempt a job is running: its record and the state that is not stored.
struct LiveAttempt {
  AttemptRecord record;
  std::unique_ptr<AttemptMonitor> monitor;
  std::map<int, RankLink> links;             // by rank
  std::optional<SteadyTime> stopping_since;  // a graceful stop was asked for
  bool asked_launcher = false;               // … of the launcher too
  std::optional<SteadyTime> last_kill;
  std::optional<SteadyTime> end_seen;       // its processes ended, rank 0's End is missing
  std::optional<SteadyTime> fault_seen;     // a rank reported a failure of its own
  std::string waiting;                      // why the engine has not started it yet; empty: it has
  std::optional<SteadyTime> no_room_since;  // it waits for room that fewer ranks might not need
  StepProgress steps;
};

struct LiveJob {
  JobRecord record;
  std::optional<SteadyTime> resume_at;   // record.not_before on the monotonic clock
  std::optional<SteadyTime> full_until;  // how long it waits for all its ranks; not stored
  // Rank-seconds by step that emoe_goodput_ratio counts as useful, until a step is done again or a
  // checkpoint makes sure that it will not be.
  std::map<int64_t, double> useful;
  std::unique_ptr<LiveAttempt> attempt;  // while slots are held
};

// A change of one job that is not stored yet: works on copies, so that memory always equals the
// store. JobRegistry::commit() stores it and then updates memory.
class JobEdit {
 public:
  JobEdit(const LiveJob& live, const Clock& clock);
  // Of a new job.
  JobEdit(JobRecord record, const Clock& clock) : clock_(clock), record_(std::move(record)) {}

  // A transition with its event. FAILED_PRECONDITION when the state machine refuses it.
  [[nodiscard]] Status apply(JobEvent event, v1::Reason reason, const std::string& message);
  // Adds an event with the next sequence number and the time; its content is the caller's to set.
  [[nodiscard]] v1::Event& add_event();
  void log(v1::LogMessage::Level level, const std::string& text, int rank = -1);
  // Adds a warning with its event, or brings up to date the one with its code and place; false, and
  // no event, where the job has it already.
  bool warn(const v1::Warning& warning);
  // Marks a change that clients with an etag must notice (not needed for progress).
  void touch() { touched_ = job_changed_ = true; }
  // Side effects outside the store (metrics, liveness): `action` runs once the change is stored.
  void after_commit(std::function<void()> action) { after_.push_back(std::move(action)); }

  // The job as it will be stored; the accessors below change it.
  [[nodiscard]] const v1::Job& current() const { return record_.job; }
  // The one part of a job that can be changed without its whole row being written anew.
  [[nodiscard]] v1::Progress& progress() { return *record_.job.mutable_progress(); }
  [[nodiscard]] v1::Job& job() { return record().job; }
  [[nodiscard]] JobRecord& record() {
    job_changed_ = true;
    return record_;
  }
  // The attempt's record, where the job has a live attempt or set_attempt() gave one.
  [[nodiscard]] AttemptRecord& attempt();
  void set_attempt(AttemptRecord attempt) {
    attempt_ = std::move(attempt);
    attempt_changed_ = true;
  }
  [[nodiscard]] StepProgress& steps() { return steps_; }
  // The public side of the newest attempt.
  [[nodiscard]] v1::Attempt& public_attempt();
  // Rows beside the job: cursors and the answered request.
  [[nodiscard]] Change& rows() { return change_; }

 private:
  friend class JobRegistry;
  const Clock& clock_;
  JobRecord record_;
  std::optional<AttemptRecord> attempt_;
  StepProgress steps_;
  std::vector<std::function<void()>> after_;
  Change change_;
  bool touched_ = false;
  bool job_changed_ = false;
  bool attempt_changed_ = false;
};

// The jobs that have not ended, as stored. Those that have been started (or export a checkpoint) are
// kept whole; one that only waits is a place in the queue until somebody wants to change it, and its
// record stays in the store. Only the controller uses it, under its lock.
class JobRegistry {
 public:
  // `config` outlives it: what a job needs of this service's resources.
  JobRegistry(const ControlConfig& config, JobStore& store, const Clock& clock,
              std::function<void(const std::string&)> on_change);

  [[nodiscard]] Status load();
  // Those that are in memory.
  [[nodiscard]] std::map<std::string, LiveJob>& all() { return jobs_; }
  // In memory, or null.
  [[nodiscard]] LiveJob* find(const std::string& id);
  // Into memory, where it stays until drop_idle(). Null: it has ended. JOB_NOT_FOUND.
  [[nodiscard]] Result<LiveJob*> wake(const std::string& id);
  [[nodiscard]] const JobQueue& queue() const { return queue_; }
  // How many there are, also of those that have ended.
  [[nodiscard]] const std::map<v1::JobState, int>& counts() const { return counts_; }
  [[nodiscard]] int unfinished() const;

  // Stores the new jobs of several calls with their first events, all or none, and adds them; the
  // edits are used up then. On an error they may be given to it again.
  struct NewJobs {
    std::vector<JobEdit> edits;
    std::optional<RequestRecord> request;  // of the call; its response is filled in
    // The answer to the call; null: the one job.
    std::function<std::string(const std::vector<v1::Job>&)> answer;
    std::vector<v1::Job> stored;  // as they are then
    std::string bytes;            // the one job, as its client gets it
  };
  [[nodiscard]] Status add(std::vector<NewJobs>& calls);
  // Stores the edits in one transaction, then updates memory and calls on_change for each job. A
  // job that has ended stays here until drop_idle() is called.
  [[nodiscard]] Status commit(LiveJob& live, JobEdit edit);
  [[nodiscard]] Status commit(std::vector<std::pair<LiveJob*, JobEdit>>&& edits);
  // Lets go of the jobs that have ended, and of those that only wait.
  void drop_idle();
  // A job in this state was removed from the store.
  void removed(v1::JobState state) { --counts_[state]; }

 private:
  static Change finish(JobEdit& edit);
  // Counts a new job that is stored, and adds it to `stored`.
  void keep_new(JobRecord record, std::vector<v1::Job>& stored);
  // What finish() does before it copies the job.
  static void finish_record(JobEdit& edit);
  // Its place in the queue by its record, where it is QUEUED.
  void enqueue(LiveJob& live);
  void count(v1::JobState from, v1::JobState to);

  const ControlConfig& config_;
  JobStore& store_;
  const Clock& clock_;
  const std::function<void(const std::string&)> on_change_;
  std::map<std::string, LiveJob> jobs_;
  JobQueue queue_;
  std::map<v1::JobState, int> counts_;
};

// Where the job stands in the queue; of the message's own id.
[[nodiscard]] QueuePlace place_of(const v1::Job& job);
// What a job with this spec asks for, for its first attempt.
[[nodiscard]] Needs needs_of_new(const v1::JobSpec& resolved, const ControlConfig& config);
// What a job asks for, for its next attempt.
[[nodiscard]] Needs needs_of(const v1::Job& job, const ControlConfig& config);
// When a job's pause before the next attempt is over, on the monotonic clock. The pause is stored in
// wall-clock time, which may have been set since: at most the longest pause is waited.
[[nodiscard]] std::optional<SteadyTime> end_of_pause(const JobRecord& record,
                                                     const ControlConfig& config,
                                                     const Clock& clock);
// How many ranks a job's newest attempt has; of a job without one, what it asks for.
[[nodiscard]] int ranks_of(const v1::Job& job);
// The number of a job's newest attempt (it shows only the last few); 0 before the first.
[[nodiscard]] int newest_attempt(const v1::Job& job);
[[nodiscard]] google::protobuf::Timestamp to_timestamp(WallTime time);
[[nodiscard]] WallTime to_wall_time(const google::protobuf::Timestamp& time);

}  // namespace emoe::server
