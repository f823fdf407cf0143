#include "server/job/job_store.h"

#include <cerrno>
#include <chrono>

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include "server/job/errors.h"
#include "server/job/store_schema.h"
#include "server/job/store_writes.h"

namespace emoe::server {
namespace {

constexpr char kDatabaseName[] = "jobs.db";

// The database holds the secrets that ranks join with: a new folder is this user's alone.
Status make_private_folder(const std::filesystem::path& folder) {
  const auto path = (std::filesystem::absolute(folder) / "").lexically_normal().parent_path();
  EMOE_RETURN_IF_ERROR(emoe::create_directories(path.parent_path()));
  if (::mkdir(path.c_str(), 0700) == 0) return ok_status();
  if (errno != EEXIST) return errno_status(errno, "cannot create folder " + folder.string());
  return emoe::create_directories(folder);  // fails where a file is in the way
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

namespace {

// Errors that are not about the database itself have a reason already.
Status mapped(const Status& status) {
  return status.ok() || !error_detail_of(status).reason.empty() ? status : store_failed(status);
}

}  // namespace

// Takes a reading connection for one scope; opens one more when all are taken.
class JobStore::Reader {
 public:
  explicit Reader(JobStore& store) : store_(store) {
    {
      const std::lock_guard lock(store.readers_mutex_);
      if (!store.readers_.empty()) {
        database_ = std::move(store.readers_.back());
        store.readers_.pop_back();
        return;
      }
    }
    auto opened =
        Database::open(store.config_.state_dir / kDatabaseName, Database::Mode::read_only);
    status_ = opened.status();
    if (opened.ok()) database_ = *std::move(opened);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() {
    if (database_ == nullptr) return;
    const std::lock_guard lock(store_.readers_mutex_);
    store_.readers_.push_back(std::move(database_));
  }
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] Database& database() { return *database_; }

 private:
  JobStore& store_;
  std::unique_ptr<Database> database_;
  Status status_;
};

JobStore::JobStore(Config config, FileLock lock, std::unique_ptr<Database> writer)
    : config_(std::move(config)), lock_(std::move(lock)), writer_(std::move(writer)) {}

JobStore::~JobStore() = default;

Result<std::unique_ptr<JobStore>> JobStore::open(Config config) {
  const std::string context = "state folder " + config.state_dir.string();
  EMOE_RETURN_IF_ERROR(with_context(make_private_folder(config.state_dir), context));
  EMOE_ASSIGN_OR_RETURN(FileLock lock, lock_folder(config.state_dir));
  const auto path = config.state_dir / kDatabaseName;
  EMOE_ASSIGN_OR_RETURN(auto writer, Database::open(path, Database::Mode::read_write));
  auto store = std::unique_ptr<JobStore>(
      new JobStore(std::move(config), std::move(lock), std::move(writer)));
  EMOE_RETURN_IF_ERROR(with_context(prepare_schema(*store->writer_), path.string()));
  return store;
}

template <typename Body>
auto JobStore::read(const Body& body) -> decltype(body(std::declval<Database&>())) {
  Reader reader(*this);
  if (!reader.status().ok()) return mapped(reader.status());
  auto result = body(reader.database());
  if (!result.ok()) return mapped(result.status());
  return result;
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
  return mapped(status);
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

Result<std::vector<JobRecord>> JobStore::unfinished_jobs() {
  return read([&](Database& database) -> Result<std::vector<JobRecord>> {
    Statement select(database, kSelectJob + std::string(" WHERE state NOT IN (?,?,?) "
                                                        "ORDER BY create_time, id"));
    select.bind(int64_t{v1::SUCCEEDED}).bind(int64_t{v1::FAILED}).bind(int64_t{v1::CANCELLED});
    std::vector<JobRecord> jobs;
    while (select.next()) {
      EMOE_ASSIGN_OR_RETURN(JobRecord record, read_job(select));
      jobs.push_back(std::move(record));
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return jobs;
  });
}

Result<JobPage> JobStore::list(const JobQuery& query) {
  return read([&](Database& database) { return list_jobs(database, query); });
}

Result<std::map<v1::JobState, int>> JobStore::count_by_state() {
  return read([&](Database& database) -> Result<std::map<v1::JobState, int>> {
    Statement select(database, "SELECT state, count(*) FROM jobs GROUP BY state");
    std::map<v1::JobState, int> counts;
    while (select.next()) {
      counts[static_cast<v1::JobState>(select.integer(0))] = static_cast<int>(select.integer(1));
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return counts;
  });
}

Result<std::vector<AttemptRecord>> JobStore::attempts(const std::string& job_id) {
  return read([&](Database& database) { return read_attempts(database, job_id); });
}

Result<std::vector<v1::Event>> JobStore::events(const std::string& job_id, int64_t from,
                                                int limit) {
  return read([&](Database& database) {
    Statement select(
        database,
        "SELECT body FROM events WHERE job_id=? AND sequence>=? ORDER BY sequence LIMIT ?");
    return read_messages<v1::Event>(select.bind(job_id).bind(from).bind(int64_t{limit}));
  });
}

Result<std::vector<v1::StepMetrics>> JobStore::steps(const std::string& job_id, int64_t from,
                                                     int limit) {
  return read([&](Database& database) -> Result<std::vector<v1::StepMetrics>> {
    // A step is done again after a retry: the newest attempt's numbers count. SQLite takes the body
    // from the row of the maximum.
    Statement select(database,
                     "SELECT body, max(attempt) FROM events WHERE job_id=? AND step>=? "
                     "GROUP BY step ORDER BY step LIMIT ?");
    select.bind(job_id).bind(from).bind(int64_t{limit});
    EMOE_ASSIGN_OR_RETURN(auto events, read_messages<v1::Event>(select));
    std::vector<v1::StepMetrics> steps;
    for (v1::Event& event : events) steps.push_back(std::move(*event.mutable_step()));
    return steps;
  });
}

Result<bool> JobStore::has_steps(const std::string& job_id, int attempt) {
  return read([&](Database& database) -> Result<bool> {
    Statement select(database,
                     "SELECT 1 FROM events WHERE job_id=? AND step>=0 AND attempt=? LIMIT 1");
    const bool found = select.bind(job_id).bind(int64_t{attempt}).next();
    EMOE_RETURN_IF_ERROR(select.status());
    return found;
  });
}

Result<std::vector<v1::EvalResult>> JobStore::evals(const std::string& job_id, int64_t from,
                                                    int64_t end) {
  return read([&](Database& database) {
    Statement select(database,
                     "SELECT body FROM evals WHERE job_id=? AND step>=? AND step<? ORDER BY step");
    return read_messages<v1::EvalResult>(select.bind(job_id).bind(from).bind(end));
  });
}

Result<std::vector<v1::CheckpointInfo>> JobStore::checkpoints(const std::string& job_id,
                                                              int64_t newest) {
  return read([&](Database& database) {
    Statement select(database,
                     "SELECT body FROM checkpoints WHERE job_id=? AND step<=? ORDER BY step DESC");
    return read_messages<v1::CheckpointInfo>(select.bind(job_id).bind(newest));
  });
}

Result<std::map<std::string, v1::CheckpointInfo>> JobStore::last_checkpoints() {
  return read([&](Database& database) -> Result<std::map<std::string, v1::CheckpointInfo>> {
    // SQLite takes the other columns from the row of the maximum.
    Statement select(database, "SELECT job_id, body, max(step) FROM checkpoints GROUP BY job_id");
    std::map<std::string, v1::CheckpointInfo> newest;
    while (select.next()) {
      if (!newest[select.bytes(0)].ParseFromString(select.bytes(1))) {
        return absl::DataLossError("database: a stored checkpoint is damaged");
      }
    }
    EMOE_RETURN_IF_ERROR(select.status());
    return newest;
  });
}

Result<int64_t> JobStore::committed_sequence(const std::string& job_id, int attempt, int rank) {
  return read([&](Database& database) -> Result<int64_t> {
    Statement select(database,
                     "SELECT sequence FROM cursors WHERE job_id=? AND attempt=? AND rank=?");
    const bool found = select.bind(job_id).bind(int64_t{attempt}).bind(int64_t{rank}).next();
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

}  // namespace emoe::server
