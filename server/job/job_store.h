#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file_lock.h"
#include "server/job/sqlite.h"
#include "server/job/types.h"

namespace emoe::server {

// Which jobs, in which order, from where on.
struct JobQuery {
  enum class Order { create_time, priority, name };
  // By Order: in requests, and the database's columns.
  static constexpr std::array kOrderNames = {"create_time", "priority", "name"};
  std::vector<v1::JobState> states;           // empty: any
  std::map<std::string, std::string> labels;  // all must match
  std::optional<std::string> name;
  std::optional<std::string> project;
  std::optional<std::string> visible_project;  // of the caller; absent: it sees all
  Order order = Order::create_time;
  bool descending = true;
  struct Cursor {
    std::string key;  // of the last job seen, as the store gave it
    std::string id;
  };
  std::optional<Cursor> after;
  int limit = 50;
};

struct JobPage {
  std::vector<v1::Job> jobs;
  std::optional<JobQuery::Cursor> next;  // absent on the last page
};

// The coordinator's durable state in one SQLite file (WAL, synchronous=FULL): a change for which
// commit() returned OK survives a power cut. One writing connection under a mutex; readers have
// their own and do not wait for it. After open(), every error of SQLite or the file system is
// INTERNAL / STORE_FAILED. Thread-safe.
class JobStore {
 public:
  struct Config {
    // Made if missing, for this user alone; jobs.db and lock live there.
    std::filesystem::path state_dir;
    std::function<void(double seconds)> on_commit = {};  // how long each commit took
    // For tests: called before each commit, which fails with its error as on a full disk.
    std::function<Status()> before_commit = {};
  };

  // Locks the folder against a second coordinator (ABORTED "… is used by another coordinator"),
  // opens, checks and, when an older version wrote it, migrates the database. DATA_LOSS when it is
  // damaged, FAILED_PRECONDITION when a newer version wrote it or the file system cannot hold a
  // write-ahead log, PERMISSION_DENIED or another I/O error when it cannot be written.
  [[nodiscard]] static Result<std::unique_ptr<JobStore>> open(Config config);
  ~JobStore();

  // Writes all of it or nothing.
  [[nodiscard]] Status commit(const Change& change);
  [[nodiscard]] Status commit(const std::vector<Change>& changes);
  // Removes a job and all that belongs to it, except the answered requests.
  [[nodiscard]] Status remove_job(const std::string& id,
                                  const std::optional<RequestRecord>& request);

  // NOT_FOUND / JOB_NOT_FOUND.
  [[nodiscard]] Result<JobRecord> job(const std::string& id);
  [[nodiscard]] Result<std::vector<JobRecord>> unfinished_jobs();  // oldest first
  [[nodiscard]] Result<JobPage> list(const JobQuery& query);
  // Of one project, or of all.
  [[nodiscard]] Result<std::map<v1::JobState, int>> count_by_state(
      const std::optional<std::string>& project = std::nullopt);
  // Of a job that there is.
  [[nodiscard]] Result<std::optional<std::string>> project_of(const std::string& id);
  // Of all jobs of a project that are kept.
  [[nodiscard]] Result<std::vector<std::filesystem::path>> output_folders(
      const std::string& project);
  [[nodiscard]] Result<std::vector<AttemptRecord>> attempts(const std::string& job_id);
  [[nodiscard]] Result<std::vector<v1::Event>> events(const std::string& job_id, int64_t from,
                                                      int limit);
  // Of a step that was done again, here and in the next two, the newest report counts.
  [[nodiscard]] Result<std::vector<v1::StepMetrics>> steps(const std::string& job_id, int64_t from,
                                                           int limit);
  // Whether this attempt has reported a step; looks at all steps of the job.
  [[nodiscard]] Result<bool> has_steps(const std::string& job_id, int attempt);
  // Those before step `end`, in order.
  [[nodiscard]] Result<std::vector<v1::EvalResult>> evals(const std::string& job_id, int64_t from,
                                                          int64_t end);
  // Newest first. Some may have been replaced on disk since (checkpoint.keep).
  [[nodiscard]] Result<std::vector<v1::CheckpointInfo>> checkpoints(const std::string& job_id,
                                                                    int64_t newest);
  // The newest of each job that has one, by job id.
  [[nodiscard]] Result<std::map<std::string, v1::CheckpointInfo>> last_checkpoints();
  [[nodiscard]] Result<int64_t> committed_sequence(const std::string& job_id, int attempt,
                                                   int rank);
  [[nodiscard]] Result<std::optional<RequestRecord>> request(const std::string& request_id);
  // The newest kLearnedRuns on this kind of machine, oldest first.
  [[nodiscard]] Result<std::vector<FinishedRun>> finished_runs(const std::string& machine);

 private:
  JobStore(Config config, FileLock lock, std::unique_ptr<Database> writer);

  // A reading connection out of the pool; one more when all are in use.
  [[nodiscard]] Result<std::unique_ptr<Database>> reader();
  // The result of `body` on one of them, which goes back to the pool.
  template <typename Body>
  [[nodiscard]] auto read(const Body& body) -> decltype(body(std::declval<Database&>()));
  // What events_by_step() finds; `content` gives an event's message.
  template <typename Message>
  [[nodiscard]] Result<std::vector<Message>> by_step(const std::string& job_id,
                                                     v1::Event::KindCase kind,
                                                     Message* (v1::Event::*content)(),
                                                     int64_t first, int64_t last, int limit);
  // Runs `write` in one durable transaction.
  [[nodiscard]] Status transact(const std::function<Status(Database&)>& write);

  const Config config_;
  FileLock lock_;
  std::mutex write_mutex_;
  std::unique_ptr<Database> writer_;
  std::mutex readers_mutex_;
  std::vector<std::unique_ptr<Database>> readers_;
};

}  // namespace emoe::server
