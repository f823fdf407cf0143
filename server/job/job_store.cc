#include "server/job/job_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "server/job/errors.h"
#include "server/job/store_rows.h"
#include "server/job/store_schema.h"

namespace emoe::server {
namespace {

constexpr int64_t kLastStep = std::numeric_limits<int64_t>::max();
constexpr int kNoLimit = -1;  // as SQLite counts

// The database holds the secrets that ranks join with: a new folder is this user's alone.
Status make_private_folder(const std::filesystem::path& folder) {
  const auto path = absolute_path(folder);
  EMOE_RETURN_IF_ERROR(emoe::create_directories(path.parent_path()));
  if (::mkdir(path.c_str(), 0700) == 0) return ok_status();
  if (errno != EEXIST) return errno_status(errno, "cannot create folder " + folder.string());
  return emoe::create_directories(folder);  // fails where a file is in the way
}

// A new database is this user's alone, also in a folder that is open to others.
Status make_private_file(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  return file.valid() ? ok_status() : errno_status(errno, "cannot open " + path.string());
}

// And so becomes an older one, with what SQLite has beside it.
Status close_to_others(const std::filesystem::path& path) {
  for (const char* suffix : {"", "-wal", "-shm"}) {
    const std::string file = path.string() + suffix;
    // Another user's, who has let this one in, stays as it is.
    if (::chmod(file.c_str(), 0600) != 0 && errno != ENOENT && errno != EPERM) {
      return errno_status(errno, file);
    }
  }
  return ok_status();
}

Result<FileLock> lock_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "lock";
  EMOE_ASSIGN_OR_RETURN(std::optional<FileLock> lock, FileLock::try_acquire(path));
  if (lock) return *std::move(lock);
  return absl::AbortedError(
      absl::StrCat("state folder ", folder.string(), " is used by another coordinator (lock file ",
                   path.string(), "); stop that one or use another --state-dir"));
}

}  // namespace

Status unusable_database(const std::filesystem::path& path, const Status& status) {
  const Status named = with_context(status, path.string());
  if (!absl::IsDataLoss(status)) return named;
  return Status(
      named.code(),
      absl::StrCat(std::string(named.message()), "; put a backup in its place, or move it with ",
                   kDatabaseName, "-wal and ", kDatabaseName,
                   "-shm out of the folder to begin without jobs (their output folders "
                   "are not touched)"));
}

Status mapped_store_error(const Status& status) {
  return status.ok() || !error_detail_of(status).reason.empty() ? status : store_failed(status);
}

JobStore::JobStore(Config config, FileLock lock, std::unique_ptr<Database> writer)
    : config_(std::move(config)), lock_(std::move(lock)), writer_(std::move(writer)) {}

JobStore::~JobStore() = default;

Result<std::unique_ptr<JobStore>> JobStore::open(Config config) {
  const std::string context = "state folder " + config.state_dir.string();
  EMOE_RETURN_IF_ERROR(with_context(make_private_folder(config.state_dir), context));
  EMOE_ASSIGN_OR_RETURN(FileLock lock, lock_folder(config.state_dir));
  const auto path = config.state_dir / kDatabaseName;
  EMOE_RETURN_IF_ERROR(with_context(make_private_file(path), context));
  EMOE_ASSIGN_OR_RETURN(auto writer, Database::open(path, Database::Mode::read_write));
  auto store = std::unique_ptr<JobStore>(
      new JobStore(std::move(config), std::move(lock), std::move(writer)));
  Status prepared = prepare_schema(*store->writer_);
  if (prepared.ok()) prepared = store->set_up_writer();
  if (!prepared.ok()) return unusable_database(path, prepared);
  EMOE_RETURN_IF_ERROR(with_context(close_to_others(path), context));
  return store;
}

Status JobStore::set_up_writer() {
  EMOE_ASSIGN_OR_RETURN(const int64_t size, database_bytes(*writer_));
  unchecked_ = size > kCheckedAtStart;
  sqlite3_wal_hook(writer_->handle(), after_commit, this);
  return writer_->execute("PRAGMA cache_size=-65536; PRAGMA journal_size_limit=67108864");
}

// As SQLite's own, which checkpoints every 1000 pages of 4 KiB; by others it is left to them unless
// they do not come to it.
int JobStore::after_commit(void* store, sqlite3* database, const char* name, int pages) {
  auto& self = *static_cast<JobStore*>(store);
  if (pages < self.log_pages_) self.moved_pages_ = 0;  // it has begun anew
  self.log_pages_ = pages;
  if (pages < (self.config_.checkpointed_by_others ? 100'000 : 1000)) return SQLITE_OK;
  sqlite3_wal_checkpoint_v2(database, name, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  return SQLITE_OK;
}

Result<std::unique_ptr<Database>> JobStore::reader() {
  {
    const std::lock_guard lock(readers_mutex_);
    if (!readers_.empty()) {
      auto database = std::move(readers_.back());
      readers_.pop_back();
      return database;
    }
  }
  return Database::open(config_.state_dir / kDatabaseName, Database::Mode::read_only);
}

Status JobStore::transact(const std::function<Status(Database&)>& write) {
  const std::lock_guard lock(write_mutex_);
  const auto begin = std::chrono::steady_clock::now();
  Transaction transaction(*writer_);
  Status status = transaction.begun();
  if (status.ok()) status = write(*writer_);
  if (status.ok() && config_.before_commit) status = config_.before_commit();
  if (status.ok()) status = transaction.commit();
  if (status.ok() && config_.on_commit) {
    config_.on_commit(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return mapped_store_error(status);
}

Status JobStore::commit(const Change& change) {
  return commit(std::vector<Change>{change});
}

Status JobStore::commit(const std::vector<Change>& changes) {
  return transact([&](Database& database) {
    for (const Change& change : changes) EMOE_RETURN_IF_ERROR(write_change(database, change));
    return ok_status();
  });
}

Status JobStore::remove_job(const std::string& id, const std::optional<RequestRecord>& request) {
  return transact([&](Database& database) {
    EMOE_RETURN_IF_ERROR(Statement(database, "DELETE FROM jobs WHERE id=?").bind(id).run());
    return request ? write_request(database, *request) : ok_status();
  });
}

Result<JobRecord> JobStore::job(const std::string& id) {
  return read([&](Database& database) -> Result<JobRecord> {
    Statement select(database, kSelectJob + std::string(" WHERE id=?"));
    if (select.bind(id).next()) return read_job(select);
    EMOE_RETURN_IF_ERROR(select.status());
    return job_not_found(id);
  });
}

Result<JobStore::Tail> JobStore::tail(const std::string& id) {
  return read([&](Database& database) -> Result<Tail> {
    Statement select(
        database,
        "SELECT state, progress.next_sequence FROM jobs JOIN progress ON job_id=id WHERE id=?");
    if (select.bind(id).next()) {
      return Tail{.state = select.integer<v1::JobState>(0), .next_sequence = select.integer(1)};
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return job_not_found(id);
  });
}

Result<std::vector<JobRecord>> JobStore::unfinished_jobs() {
  return read([&](Database& database) {
    Statement select(database, kSelectJob + std::string(" WHERE state NOT IN (?,?,?) "
                                                        "ORDER BY create_time, id"));
    return read_rows(select.bind(v1::SUCCEEDED, v1::FAILED, v1::CANCELLED), read_job);
  });
}

Result<std::vector<JobRecord>> JobStore::resident_jobs() {
  return read([&](Database& database) {
    Statement select(
        database,
        kSelectJob +
            std::string(
                " WHERE state IN (?,?,?,?,?,?,?) OR id IN (SELECT id FROM jobs WHERE resident=1) "
                "ORDER BY create_time, id"));
    select.bind(v1::VALIDATING, v1::STARTING, v1::RUNNING, v1::PAUSING, v1::RECOVERING);
    return read_rows(select.bind(v1::EXPORTING, v1::CANCELLING), read_job);
  });
}

Status JobStore::queued_jobs(const std::function<void(const QueuedRow&)>& visit) {
  return read([&](Database& database) -> Result<bool> {
           Statement select(
               database,
               "SELECT id, priority, create_time, ranks, min_ranks, batch, on_cpu, "
               "run_nanoseconds, project FROM jobs INDEXED BY jobs_queued WHERE state=2");
           while (select.next()) visit(read_queued_row(select));
           EMOE_RETURN_IF_ERROR(select.status());
           return true;
         })
      .status();
}

Result<JobPage> JobStore::list(const JobQuery& query) {
  return read([&](Database& database) { return list_jobs(database, query); });
}

Result<std::optional<std::string>> JobStore::project_of(const std::string& id) {
  return read([&](Database& database) -> Result<std::optional<std::string>> {
    Statement select(database, "SELECT project FROM jobs WHERE id=?");
    if (select.bind(id).next()) return std::optional(select.bytes(0));
    EMOE_RETURN_IF_ERROR(select.status());
    return std::nullopt;
  });
}

Result<std::vector<std::filesystem::path>> JobStore::output_folders(const std::string& project) {
  using Folders = std::vector<std::filesystem::path>;
  return read([&](Database& database) -> Result<Folders> {
    Statement select(database, "SELECT body FROM jobs WHERE project=?");
    select.bind(project);
    Folders folders;
    while (select.next()) {
      v1::Job job;
      if (!job.ParseFromString(select.bytes(0))) {
        return absl::DataLossError("database: a stored job is damaged");
      }
      folders.emplace_back(job.output_dir());
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return folders;
  });
}

Result<std::map<v1::JobState, int>> JobStore::count_by_state(
    const std::optional<std::string>& project) {
  return read([&](Database& database) -> Result<std::map<v1::JobState, int>> {
    Statement select(database,
                     project ? "SELECT state, count(*) FROM jobs WHERE project=? GROUP BY state"
                             : "SELECT state, count(*) FROM jobs GROUP BY state");
    if (project) select.bind(*project);
    std::map<v1::JobState, int> counts;
    while (select.next()) {
      counts[select.integer<v1::JobState>(0)] = select.integer<int>(1);
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return counts;
  });
}

Result<std::vector<AttemptRecord>> JobStore::attempts(const std::string& job_id) {
  return read([&](Database& database) {
    Statement select(database, "SELECT * FROM attempts WHERE job_id=? ORDER BY number");
    return read_rows(select.bind(job_id), read_attempt);
  });
}

Result<std::vector<v1::Event>> JobStore::events(const std::string& job_id, int64_t from,
                                                int limit) {
  return read([&](Database& database) {
    Statement select(
        database,
        "SELECT body FROM events WHERE job_id=? AND sequence>=? ORDER BY sequence LIMIT ?");
    return read_rows(select.bind(job_id, from, limit), read_event);
  });
}

template <typename Message>
Result<std::vector<Message>> JobStore::by_step(const std::string& job_id, v1::Event::KindCase kind,
                                               Message* (v1::Event::*content)(), int64_t first,
                                               int64_t last, int limit) {
  return read([&](Database& database) -> Result<std::vector<Message>> {
    EMOE_ASSIGN_OR_RETURN(auto events, events_by_step(database, job_id, kind, first, last, limit));
    std::vector<Message> messages;
    for (v1::Event& event : events) messages.push_back(std::move(*(event.*content)()));
    return messages;
  });
}

Result<std::vector<v1::StepMetrics>> JobStore::steps(const std::string& job_id, int64_t from,
                                                     int limit) {
  return by_step(job_id, v1::Event::kStep, &v1::Event::mutable_step, from, kLastStep, limit);
}

Result<std::vector<v1::EvalResult>> JobStore::evals(const std::string& job_id, int64_t from,
                                                    int64_t end) {
  return by_step(job_id, v1::Event::kEval, &v1::Event::mutable_eval, from, end - 1, kNoLimit);
}

Result<std::vector<v1::CheckpointInfo>> JobStore::checkpoints(const std::string& job_id,
                                                              int64_t newest) {
  auto found =
      by_step(job_id, v1::Event::kCheckpoint, &v1::Event::mutable_checkpoint, 0, newest, kNoLimit);
  if (found.ok()) std::reverse(found->begin(), found->end());
  return found;
}

Result<bool> JobStore::has_steps(const std::string& job_id, int attempt) {
  return read([&](Database& database) -> Result<bool> {
    Statement select(
        database,
        "SELECT 1 FROM events WHERE job_id=? AND kind=? AND step>=0 AND attempt=? LIMIT 1");
    const bool found = select.bind(job_id, v1::Event::kStep, attempt).next();
    EMOE_RETURN_IF_ERROR(select.status());
    return found;
  });
}

Result<std::map<std::string, v1::CheckpointInfo>> JobStore::last_checkpoints() {
  return read([&](Database& database) -> Result<std::map<std::string, v1::CheckpointInfo>> {
    // The index of checkpoints serves a constant kind alone. Ordered: the last of a job counts.
    Statement select(
        database, absl::StrCat("SELECT body, events.job_id FROM events JOIN (SELECT job_id, "
                               "max(step) AS last FROM events INDEXED BY checkpoints WHERE kind=",
                               static_cast<int>(v1::Event::kCheckpoint),
                               " AND step IS NOT NULL GROUP BY job_id) AS newest ON "
                               "events.job_id=newest.job_id AND kind=",
                               static_cast<int>(v1::Event::kCheckpoint),
                               " AND step=last ORDER BY events.job_id, sequence"));
    std::map<std::string, v1::CheckpointInfo> newest;
    while (select.next()) {
      EMOE_ASSIGN_OR_RETURN(const v1::Event event, read_event(select));
      newest[select.bytes(1)] = event.checkpoint();
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return newest;
  });
}

Result<int64_t> JobStore::committed_sequence(const std::string& job_id, int attempt, int rank) {
  return read([&](Database& database) -> Result<int64_t> {
    Statement select(database,
                     "SELECT sequence FROM cursors WHERE job_id=? AND attempt=? AND rank=?");
    const bool found = select.bind(job_id, attempt, rank).next();
    EMOE_RETURN_IF_ERROR(select.status());
    return found ? select.integer(0) : 0;
  });
}

Result<std::optional<RequestRecord>> JobStore::request(const std::string& request_id) {
  return read([&](Database& database) -> Result<std::optional<RequestRecord>> {
    Statement select(database,
                     "SELECT method, body_hash, job_id, response, time FROM requests "
                     "WHERE request_id=?");
    const bool found = select.bind(request_id).next();
    EMOE_RETURN_IF_ERROR(select.status());
    if (!found) return std::optional<RequestRecord>();
    return std::optional<RequestRecord>({request_id, select.bytes(0), select.bytes(1),
                                         select.bytes(2), select.bytes(3),
                                         wall_time(select.integer(4))});
  });
}

Result<std::vector<FinishedRun>> JobStore::finished_runs(const std::string& machine) {
  return read([&](Database& database) -> Result<std::vector<FinishedRun>> {
    Statement select(database,
                     "SELECT megaflops_per_rank, steps, weight_bytes, step_nanoseconds, "
                     "other_nanoseconds FROM finished_runs WHERE machine=? "
                     "ORDER BY time DESC, job_id LIMIT ?");
    auto found = read_rows(select.bind(machine, kLearnedRuns), read_finished_run);
    if (found.ok()) std::reverse(found->begin(), found->end());
    return found;
  });
}

}  // namespace emoe::server
