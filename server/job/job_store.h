#pragma once

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "base/file_lock.h"
#include "server/job/sqlite.h"
#include "server/job/store_backup.h"
#include "server/job/types.h"

namespace emoe::server {

// Which jobs, in which order, from where on.
struct JobQuery {
  enum class Order { create_time, priority, name };
  // By Order: in requests, and the database's columns.
  static constexpr std::array kOrderNames = {"create_time", "priority", "name"};
  std::vector<v1::JobState> states;           // empty: any
  std::map<std::string, std::string> labels;  // all must match
  std::optional<std::string> id_prefix;       // ids that begin so
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

// What the queue knows of a job.
struct QueuedRow {
  std::string id;
  int32_t priority = 0;
  WallTime create_time;
  int32_t ranks = 1;
  int32_t min_ranks = 0;
  int64_t batch = 0;              // rows of a step
  bool on_cpu = false;            // resources.device is cpu
  std::optional<double> seconds;  // that it will run, by its plan
  std::string project;
};
[[nodiscard]] QueuedRow queued_row(const v1::Job& job);
// An unfinished job that has been started, or that exports a checkpoint, or whose ranks come in groups: of
// those the queue must know more than a QueuedRow says.
[[nodiscard]] bool is_resident(const JobRecord& record);

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
    // Somebody calls checkpoint() now and then, so that no commit has to: the log may grow meanwhile.
    bool checkpointed_by_others = false;
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
  // Of the unfinished those that the coordinator keeps whole in memory, oldest first: is_resident(),
  // or neither QUEUED nor PAUSED.
  [[nodiscard]] Result<std::vector<JobRecord>> resident_jobs();
  // Calls `visit` for each QUEUED job, without reading their bodies.
  [[nodiscard]] Status queued_jobs(const std::function<void(const QueuedRow&)>& visit);
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
  // Where the job's events end, without reading its body: JOB_NOT_FOUND.
  struct Tail {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    int64_t next_sequence = 1;
  };
  [[nodiscard]] Result<Tail> tail(const std::string& id);
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
  // Jobs that ended before `time`, those that did first.
  [[nodiscard]] Result<std::vector<std::string>> ended_before(WallTime time, int limit);
  // Removes up to `most` of a job's events, the oldest first; how many it removed.
  [[nodiscard]] Result<int> remove_events(const std::string& job_id, int most);
  // Gives up to `pages` free pages back to the file system where more than an eighth of the file is
  // free; true: more are.
  [[nodiscard]] Result<bool> tidy(int pages);
  // Moves what the log holds into the database, once that is a MiB, and lets the log begin anew once it
  // is 32. Called often: a commit's flush waits for what the disk has to write for this. Commits wait for
  // the last part of the latter alone.
  [[nodiscard]] Status checkpoint();
  // A copy in <state_dir>/backups, see store_backup.h. FAILED_PRECONDITION / BACKUP_RUNNING.
  [[nodiscard]] Result<Backup> backup(WallTime now);
  // Whether open() left the check of the file to verify(), because it is large.
  [[nodiscard]] bool unchecked() const { return unchecked_; }
  // Reads the whole file; DATA_LOSS where it is damaged, CANCELLED when `stop` asks for it.
  [[nodiscard]] Status verify(const std::stop_token& stop);
  // The kinds of machine (and task) that finished_runs() knows, the one with the newest run first.
  [[nodiscard]] Result<std::vector<std::string>> learned_kinds();
  // How often it was read from so far, for tests and measurements.
  [[nodiscard]] int64_t reads() const { return reads_; }
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
  // How the writing connection caches and checkpoints.
  [[nodiscard]] Status set_up_writer();
  // Moves what it can without making commits wait; how many pages of the log are moved now.
  [[nodiscard]] Result<int> move_log();
  static int after_commit(void* store, sqlite3* database, const char* name, int pages);
  // Runs `write` in one durable transaction.
  [[nodiscard]] Status transact(const std::function<Status(Database&)>& write);

  const Config config_;
  FileLock lock_;
  std::mutex write_mutex_;
  std::unique_ptr<Database> writer_;
  bool unchecked_ = false;
  std::atomic<int> log_pages_ = 0;    // in the log behind the last commit
  std::atomic<int> moved_pages_ = 0;  // … of which so many are in the database too
  std::atomic<int64_t> reads_ = 0;
  std::mutex backup_mutex_;  // held while one is made
  std::mutex readers_mutex_;
  std::vector<std::unique_ptr<Database>> readers_;
};

// Below: what the files of JobStore share.
inline constexpr char kDatabaseName[] = "jobs.db";
// A database that cannot be used, with what can be done about it.
[[nodiscard]] Status unusable_database(const std::filesystem::path& path, const Status& status);
// STORE_FAILED, unless the error has a reason already: it is not about the database itself then.
[[nodiscard]] Status mapped_store_error(const Status& status);

template <typename Body>
auto JobStore::read(const Body& body) -> decltype(body(std::declval<Database&>())) {
  ++reads_;
  auto database = reader();
  if (!database.ok()) return mapped_store_error(database.status());
  auto result = body(**database);
  {
    const std::lock_guard lock(readers_mutex_);
    readers_.push_back(*std::move(database));
  }
  if (!result.ok()) return mapped_store_error(result.status());
  return result;
}

}  // namespace emoe::server
