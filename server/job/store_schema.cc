#include "server/job/store_schema.h"

#include <array>

#include <absl/strings/str_cat.h>

#include "emoe/v1/job.pb.h"
#include "server/job/store_rows.h"

namespace emoe::server {
namespace {

constexpr char kVersion1[] = R"(
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs(
  id TEXT PRIMARY KEY, name TEXT NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL,
  create_time INTEGER NOT NULL, next_sequence INTEGER NOT NULL, revision INTEGER NOT NULL,
  failures INTEGER NOT NULL, not_before INTEGER, cancel_message TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX jobs_by_state ON jobs(state);
CREATE INDEX jobs_by_time ON jobs(create_time, id);
CREATE TABLE labels(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY(job_id, key)) WITHOUT ROWID;
CREATE TABLE attempts(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, number INTEGER NOT NULL,
  token TEXT NOT NULL, handle TEXT NOT NULL, ended INTEGER NOT NULL, doom INTEGER,
  doom_message TEXT NOT NULL, end_code INTEGER, fault_code INTEGER, fault_message TEXT NOT NULL,
  PRIMARY KEY(job_id, number)) WITHOUT ROWID;
CREATE TABLE events(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, sequence)) WITHOUT ROWID;
CREATE TABLE steps(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  attempt INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE evals(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE checkpoints(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE cursors(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY(job_id, attempt, rank)) WITHOUT ROWID;
CREATE TABLE requests(
  request_id TEXT PRIMARY KEY, method TEXT NOT NULL, body_hash TEXT NOT NULL, job_id TEXT NOT NULL,
  response BLOB NOT NULL) WITHOUT ROWID;
)";

// Requests are deleted after a while; a job's run time and idle requeues survive a restart.
constexpr char kVersion2[] = R"(
ALTER TABLE requests ADD COLUMN time INTEGER NOT NULL DEFAULT 0;
UPDATE requests SET time = CAST(strftime('%s', 'now') AS INTEGER) * 1000000000;
CREATE INDEX requests_by_time ON requests(time);
ALTER TABLE jobs ADD COLUMN idle_requeues INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN run_time INTEGER NOT NULL DEFAULT 0;
)";

// Steps, evaluations and checkpoints are stored once, as events, and found by kind and step. The
// fields that change with every step move from the job's row to one of their own.
constexpr char kVersion3[] = R"(
DROP TABLE steps;
DROP TABLE evals;
DROP TABLE checkpoints;
ALTER TABLE events ADD COLUMN kind INTEGER;
ALTER TABLE events ADD COLUMN step INTEGER;
ALTER TABLE events ADD COLUMN attempt INTEGER;
CREATE INDEX events_by_step ON events(job_id, kind, step, attempt) WHERE step IS NOT NULL;
CREATE TABLE progress(
  job_id TEXT PRIMARY KEY REFERENCES jobs(id) ON DELETE CASCADE, next_sequence INTEGER NOT NULL,
  run_time INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO progress SELECT id, next_sequence, run_time, x'' FROM jobs;
ALTER TABLE jobs DROP COLUMN next_sequence;
ALTER TABLE jobs DROP COLUMN run_time;
ALTER TABLE attempts RENAME COLUMN doom TO stop_reason;
ALTER TABLE attempts RENAME COLUMN doom_message TO stop_message;
)";

// For version 3: moves progress out of the bodies of jobs.
Status move_progress(Database& database) {
  Statement jobs(database, "SELECT id, body FROM jobs");
  while (jobs.next()) {
    v1::Job job;
    if (!job.ParseFromString(jobs.bytes(1))) return absl::DataLossError("a job is damaged");
    v1::Job fields;
    fields.mutable_progress()->Swap(job.mutable_progress());
    fields.mutable_update_time()->Swap(job.mutable_update_time());
    job.clear_progress();
    job.clear_update_time();
    Statement keep(database, "UPDATE jobs SET body=? WHERE id=?");
    EMOE_RETURN_IF_ERROR(keep.bind_blob(job.SerializeAsString()).bind(jobs.bytes(0)).run());
    Statement move(database, "UPDATE progress SET body=? WHERE job_id=?");
    EMOE_RETURN_IF_ERROR(move.bind_blob(fields.SerializeAsString()).bind(jobs.bytes(0)).run());
  }
  return jobs.status();
}

Status index_events(Database& database) {
  Statement events(database, "SELECT job_id, sequence, body FROM events");
  while (events.next()) {
    v1::Event event;
    if (!event.ParseFromString(events.bytes(2))) return absl::DataLossError("an event is damaged");
    const EventKey key = key_of(event);
    Statement update(database,
                     "UPDATE events SET kind=?, step=?, attempt=? WHERE job_id=? AND sequence=?");
    update.bind(key.kind, key.step, key.attempt, events.bytes(0), events.integer(1));
    EMOE_RETURN_IF_ERROR(update.run());
  }
  return events.status();
}

Status to_version3(Database& database) {
  EMOE_RETURN_IF_ERROR(database.execute(kVersion3));
  EMOE_RETURN_IF_ERROR(move_progress(database));
  return index_events(database);
}

// Rates are learned from runs that finished, also when their jobs are deleted since.
constexpr char kVersion4[] = R"(
CREATE TABLE finished_runs(
  job_id TEXT PRIMARY KEY, machine TEXT NOT NULL, time INTEGER NOT NULL, megaflops_per_rank INTEGER NOT NULL,
  steps INTEGER NOT NULL, weight_bytes INTEGER NOT NULL, step_nanoseconds INTEGER NOT NULL,
  other_nanoseconds INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX finished_runs_by_machine ON finished_runs(machine, time);
)";

// Whose jobs they are; those of before belong to no project.
constexpr char kVersion5[] = R"(
ALTER TABLE jobs ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
)";

// What the scheduler and lists ask of a million jobs stands in indexes, so that neither a start nor a
// page reads the bodies of jobs. A page is put together from the states, each in the asked order.
constexpr char kVersion6[] = R"(
ALTER TABLE jobs ADD COLUMN ranks INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN min_ranks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN on_cpu INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN run_nanoseconds INTEGER;
ALTER TABLE jobs ADD COLUMN resident INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN end_time INTEGER;
DROP INDEX jobs_by_state;
DROP INDEX jobs_by_time;
CREATE INDEX jobs_by_state_and_time ON jobs(state, create_time, id);
CREATE INDEX jobs_by_state_and_priority ON jobs(state, priority, id);
CREATE INDEX jobs_by_state_and_name ON jobs(state, name, id);
CREATE INDEX jobs_queued ON jobs(priority, create_time, id, ranks, min_ranks, batch, on_cpu, run_nanoseconds, resident, project)
  WHERE state = 2;
CREATE INDEX jobs_resident ON jobs(id) WHERE resident = 1;
CREATE INDEX jobs_ended ON jobs(end_time, id) WHERE end_time IS NOT NULL;
CREATE INDEX jobs_by_project ON jobs(project, state, create_time, id);
CREATE INDEX labels_by_value ON labels(key, value, job_id);
)";

// The columns of version 6 out of the bodies. The rows of a job's checkpoints get an index of their own.
Status to_version6(Database& database) {
  EMOE_RETURN_IF_ERROR(database.execute(kVersion6));
  EMOE_RETURN_IF_ERROR(database.execute(
      absl::StrCat("CREATE INDEX checkpoints ON events(job_id, step, sequence) WHERE kind = ",
                   static_cast<int>(v1::Event::kCheckpoint), " AND step IS NOT NULL")));
  Statement jobs(database, "SELECT id, body, not_before FROM jobs");
  while (jobs.next()) {
    JobRecord record;
    if (!record.job.ParseFromString(jobs.bytes(1))) return absl::DataLossError("a job is damaged");
    if (const auto time = jobs.optional<int64_t>(2)) record.not_before = wall_time(*time);
    const JobColumns columns = columns_of(record);
    Statement fill(database,
                   "UPDATE jobs SET ranks=?, min_ranks=?, batch=?, on_cpu=?, run_nanoseconds=?, "
                   "resident=?, end_time=? WHERE id=?");
    fill.bind(columns.ranks, columns.min_ranks, columns.batch, columns.on_cpu,
              columns.run_nanoseconds, columns.resident, columns.end_time, jobs.bytes(0));
    EMOE_RETURN_IF_ERROR(fill.run());
  }
  return jobs.status();
}

// The jobs of one name are put in any order, and found by project, from the index alone: their rows lie all
// over a table of gigabytes.
constexpr char kVersion7[] = R"(
DROP INDEX jobs_by_state_and_name;
CREATE INDEX jobs_by_state_and_name ON jobs(state, name, id, create_time, priority, project);
)";

// The i-th migrates version i to version i + 1; version 0 is an empty file. A released entry is
// never changed: a change of the tables is a new entry.
constexpr std::array<Status (*)(Database&), 7> kMigrations = {
    [](Database& database) { return database.execute(kVersion1); },
    [](Database& database) { return database.execute(kVersion2); },
    to_version3,
    [](Database& database) { return database.execute(kVersion4); },
    [](Database& database) { return database.execute(kVersion5); },
    to_version6,
    [](Database& database) { return database.execute(kVersion7); }};
static_assert(v1::QUEUED == 2, "the index jobs_queued names it");
constexpr int64_t kSchemaVersion = kMigrations.size();

// 0 for a new file.
Result<int64_t> stored_version(Database& database) {
  Statement tables(database,
                   "SELECT count(*), count(*) FILTER (WHERE name IN "
                   "('meta','jobs','attempts','events')) FROM sqlite_master WHERE type='table'");
  if (!tables.next()) return tables.status();
  if (tables.integer(0) == 0) return 0;
  if (tables.integer(1) != 4) {
    return absl::FailedPreconditionError(
        "is the database of another program; use another --state-dir");
  }
  Statement version(database, "SELECT value FROM meta WHERE key='schema_version'");
  if (version.next()) return version.integer(0);
  EMOE_RETURN_IF_ERROR(version.status());
  return absl::DataLossError("damaged: no schema version");
}

Status check_file(Database& database) {
  Statement journal(database, "PRAGMA journal_mode=WAL");
  if (!journal.next()) return journal.status();
  if (journal.bytes(0) != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat("the file system allows no write-ahead log (journal mode \"", journal.bytes(0),
                     "\"); use a --state-dir on a local disk"));
  }
  EMOE_RETURN_IF_ERROR(database.execute("PRAGMA synchronous=FULL"));
  EMOE_ASSIGN_OR_RETURN(const int64_t size, database_bytes(database));
  return size <= kCheckedAtStart ? check_database(database) : ok_status();
}

// Free pages go back to the file system bit by bit (JobStore::tidy()). An older database has to be
// written anew once for that; a large one keeps its free pages for what comes.
Status prepare_vacuum(Database& database) {
  constexpr int64_t kIncremental = 2;
  int64_t mode = 0;
  {
    Statement asked(database, "PRAGMA auto_vacuum");
    if (!asked.next()) return asked.status();
    mode = asked.integer(0);
  }
  if (mode == kIncremental) return ok_status();
  EMOE_RETURN_IF_ERROR(database.execute("PRAGMA auto_vacuum=INCREMENTAL"));
  EMOE_ASSIGN_OR_RETURN(const int64_t size, database_bytes(database));
  return size <= kCheckedAtStart ? database.execute("VACUUM") : ok_status();
}

}  // namespace

Result<int64_t> database_bytes(Database& database) {
  Statement size(database,
                 "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size");
  if (size.next()) return size.integer(0);
  return size.status();
}

Status check_database(Database& database) {
  Statement check(database, "PRAGMA quick_check(1)");
  if (check.next() && check.bytes(0) != "ok") {
    return absl::DataLossError("damaged: " + check.bytes(0));
  }
  return check.status();
}

Status prepare_schema(Database& database) {
  EMOE_RETURN_IF_ERROR(stored_version(database).status());  // before a stranger's file is changed
  EMOE_RETURN_IF_ERROR(check_file(database));
  EMOE_RETURN_IF_ERROR(prepare_vacuum(database));
  Transaction transaction(database);
  EMOE_RETURN_IF_ERROR(transaction.begun());
  EMOE_ASSIGN_OR_RETURN(const int64_t version, stored_version(database));
  if (version < 0 || version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("has schema version ", version, ", this program knows up to version ",
                     kSchemaVersion, "; use the program that wrote it, or another --state-dir"));
  }
  for (size_t i = static_cast<size_t>(version); i < kMigrations.size(); ++i) {
    EMOE_RETURN_IF_ERROR(kMigrations[i](database));
  }
  Statement record(database, "INSERT OR REPLACE INTO meta VALUES('schema_version', ?)");
  EMOE_RETURN_IF_ERROR(record.bind(kSchemaVersion).run());
  return transaction.commit();
}

}  // namespace emoe::server
