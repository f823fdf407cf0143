#include "server/job/store_rows.h"

#include <map>

#include <google/protobuf/util/time_util.h>

#include "server/job/job_state_machine.h"

namespace emoe::server {

using google::protobuf::util::TimeUtil;

namespace {

Status insert_labels(Database& database, const v1::Job& job) {
  for (const auto& [key, value] : job.spec().labels()) {
    Statement insert(database, "INSERT INTO labels VALUES(?,?,?)");
    EMOE_RETURN_IF_ERROR(insert.bind(job.id(), key, value).run());
  }
  return ok_status();
}

Status write_labels(Database& database, const v1::Job& job) {
  std::map<std::string, std::string> stored;
  Statement select(database, "SELECT key, value FROM labels WHERE job_id=?");
  select.bind(job.id());
  while (select.next()) stored[select.bytes(0)] = select.bytes(1);
  EMOE_RETURN_IF_ERROR(select.status());
  const auto& labels = job.spec().labels();
  if (stored == std::map<std::string, std::string>(labels.begin(), labels.end())) {
    return ok_status();
  }
  EMOE_RETURN_IF_ERROR(
      Statement(database, "DELETE FROM labels WHERE job_id=?").bind(job.id()).run());
  return insert_labels(database, job);
}

Status write_progress(Database& database, const JobProgress& progress) {
  Statement upsert(database, "INSERT OR REPLACE INTO progress VALUES(?,?,?,?)");
  upsert.bind(progress.job_id, progress.next_sequence, progress.run_time.count());
  return upsert.bind_blob(progress.fields.SerializeAsString()).run();
}

// The columns of `record`, whose job is stored as `body`.
Status bind_job(Statement& insert, const JobRecord& record, const std::string& body) {
  const v1::Job& job = record.job;
  std::optional<int64_t> not_before;
  if (record.not_before) not_before = nanoseconds(*record.not_before);
  insert.bind(job.id(), job.name(), job.state(), job.priority(),
              TimeUtil::TimestampToNanoseconds(job.create_time()));
  insert.bind(record.revision, record.failures, not_before, record.cancel_message);
  insert.bind_blob(body).bind(record.idle_requeues);
  const JobColumns columns = columns_of(record);
  insert.bind(columns.ranks, columns.min_ranks, columns.batch, columns.on_cpu,
              columns.run_nanoseconds, columns.resident, columns.end_time, job.project(),
              job.owner());
  return insert.run();
}

Status insert_job(Database& database, const JobRecord& record, const std::string& body) {
  Statement insert(database,
                   "INSERT INTO jobs(id, name, state, priority, create_time, revision, failures, "
                   "not_before, cancel_message, body, idle_requeues, ranks, min_ranks, batch, "
                   "on_cpu, run_nanoseconds, resident, end_time, project, owner) "
                   "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  EMOE_RETURN_IF_ERROR(bind_job(insert, record, body));
  return insert_labels(database, record.job);
}

Status write_job(Database& database, const JobRecord& record) {
  thread_local v1::Job
      job;  // its parts are used again: a new copy of each job costs as much as its row
  job = record.job;
  job.clear_progress();  // in a row of their own
  job.clear_update_time();
  Statement upsert(database,
                   "INSERT INTO jobs(id, name, state, priority, create_time, revision, failures, "
                   "not_before, cancel_message, body, idle_requeues, ranks, min_ranks, batch, "
                   "on_cpu, run_nanoseconds, resident, end_time, project, owner) "
                   "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET "
                   "name=excluded.name, state=excluded.state, priority=excluded.priority, "
                   "revision=excluded.revision, failures=excluded.failures, "
                   "not_before=excluded.not_before, cancel_message=excluded.cancel_message, "
                   "body=excluded.body, idle_requeues=excluded.idle_requeues, "
                   "ranks=excluded.ranks, min_ranks=excluded.min_ranks, batch=excluded.batch, "
                   "on_cpu=excluded.on_cpu, run_nanoseconds=excluded.run_nanoseconds, "
                   "resident=excluded.resident, end_time=excluded.end_time");
  EMOE_RETURN_IF_ERROR(bind_job(upsert, record, job.SerializeAsString()));
  EMOE_RETURN_IF_ERROR(write_progress(database, progress_of(record)));
  return write_labels(database, record.job);
}

Status write_attempt(Database& database, const AttemptRecord& attempt) {
  Statement upsert(database, "INSERT OR REPLACE INTO attempts VALUES(?,?,?,?,?,?,?,?,?,?)");
  upsert.bind(attempt.job_id, attempt.number, attempt.token, attempt.handle, attempt.ended);
  upsert.bind(attempt.stop_reason, attempt.stop_message, attempt.end_code);
  return upsert.bind(attempt.fault_code, attempt.fault_message).run();
}

Status write_event(Database& database, const v1::Event& event) {
  const EventKey key = key_of(event);
  Statement insert(database, "INSERT INTO events VALUES(?,?,?,?,?,?)");
  insert.bind(event.job_id(), event.sequence()).bind_blob(event.SerializeAsString());
  return insert.bind(key.kind, key.step, key.attempt).run();
}

// Of a kind of machine no more are kept than are learned from.
Status write_finished_run(Database& database, const FinishedRunRecord& finished) {
  const FinishedRun& run = finished.run;
  const auto whole = [](double value) { return static_cast<int64_t>(value); };
  Statement upsert(database, "INSERT OR REPLACE INTO finished_runs VALUES(?,?,?,?,?,?,?,?)");
  upsert.bind(finished.job_id, finished.machine, nanoseconds(finished.time));
  upsert.bind(whole(run.size.flops_per_rank / 1e6), whole(run.size.steps),
              whole(run.size.weight_bytes), whole(run.step_seconds * 1e9),
              whole(run.other_seconds * 1e9));
  EMOE_RETURN_IF_ERROR(upsert.run());
  Statement remove(
      database,
      "DELETE FROM finished_runs WHERE machine=?1 AND job_id NOT IN (SELECT job_id FROM "
      "finished_runs WHERE machine=?1 ORDER BY time DESC, job_id LIMIT ?2)");
  return remove.bind(finished.machine, kLearnedRuns).run();
}

}  // namespace

const char* const kSelectJob =
    "SELECT jobs.body, progress.body, next_sequence, run_time, revision, failures, not_before, "
    "cancel_message, idle_requeues FROM jobs JOIN progress ON job_id=id";

Result<v1::Job> read_public_job(const Statement& row) {
  v1::Job job;
  if (job.ParseFromString(row.bytes(0)) && job.MergeFromString(row.bytes(1))) return job;
  return absl::DataLossError("database: a stored job is damaged");
}

JobColumns columns_of(const JobRecord& record) {
  const QueuedRow row = queued_row(record.job);
  JobColumns columns{.ranks = row.ranks,
                     .min_ranks = row.min_ranks,
                     .batch = row.batch,
                     .on_cpu = row.on_cpu,
                     .run_nanoseconds = {},
                     .resident = is_resident(record),
                     .end_time = {}};
  if (row.seconds) columns.run_nanoseconds = static_cast<int64_t>(*row.seconds * 1e9);
  if (is_terminal(record.job.state())) {
    columns.end_time = TimeUtil::TimestampToNanoseconds(record.job.end_time());
  }
  return columns;
}

bool is_resident(const JobRecord& record) {
  const v1::Job& job = record.job;
  const v1::Parallel& parallel = job.resolved_spec().parallel();
  const bool in_groups = parallel.min_ranks() > 0 && parallel.tensor() > 1;
  return !is_terminal(job.state()) && (job.has_export_of() || job.attempts_size() > 0 ||
                                       record.not_before.has_value() || in_groups);
}

QueuedRow queued_row(const v1::Job& job) {
  const v1::JobSpec& spec = job.resolved_spec();
  QueuedRow row{.id = job.id(),
                .priority = job.priority(),
                .create_time = wall_time(TimeUtil::TimestampToNanoseconds(job.create_time())),
                .ranks = spec.parallel().ranks(),
                .min_ranks = spec.parallel().min_ranks(),
                .batch = spec.train().global_batch(),
                .on_cpu = spec.resources().device() == "cpu",
                .seconds = {},
                .project = job.project()};
  if (job.plan().has_time()) row.seconds = job.plan().time().seconds();
  return row;
}

QueuedRow read_queued_row(const Statement& row) {
  QueuedRow queued{.id = row.bytes(0),
                   .priority = row.integer<int32_t>(1),
                   .create_time = wall_time(row.integer(2)),
                   .ranks = row.integer<int32_t>(3),
                   .min_ranks = row.integer<int32_t>(4),
                   .batch = row.integer(5),
                   .on_cpu = row.integer<bool>(6),
                   .seconds = {},
                   .project = row.bytes(8)};
  if (const auto run = row.optional<int64_t>(7)) queued.seconds = static_cast<double>(*run) * 1e-9;
  return queued;
}

JobProgress progress_of(const JobRecord& record) {
  JobProgress progress{.job_id = record.job.id(),
                       .next_sequence = record.next_sequence,
                       .run_time = record.run_time};
  *progress.fields.mutable_progress() = record.job.progress();
  *progress.fields.mutable_update_time() = record.job.update_time();
  return progress;
}

int64_t nanoseconds(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

WallTime wall_time(int64_t nanoseconds) {
  return WallTime(
      std::chrono::duration_cast<WallTime::duration>(std::chrono::nanoseconds(nanoseconds)));
}

Result<JobRecord> read_job(const Statement& row) {
  JobRecord record;
  EMOE_ASSIGN_OR_RETURN(record.job, read_public_job(row));
  record.next_sequence = row.integer(2);
  record.run_time = std::chrono::nanoseconds(row.integer(3));
  record.revision = row.integer(4);
  record.failures = row.integer<int>(5);
  if (const auto time = row.optional<int64_t>(6)) record.not_before = wall_time(*time);
  record.cancel_message = row.bytes(7);
  record.idle_requeues = row.integer<int>(8);
  return record;
}

Result<AttemptRecord> read_attempt(const Statement& row) {
  return AttemptRecord{.job_id = row.bytes(0),
                       .number = row.integer<int>(1),
                       .token = row.bytes(2),
                       .handle = row.bytes(3),
                       .ended = row.integer<bool>(4),
                       .stop_reason = row.optional<Finding>(5),
                       .stop_message = row.bytes(6),
                       .end_code = row.optional<int>(7),
                       .fault_code = row.optional<int>(8),
                       .fault_message = row.bytes(9)};
}

EventKey key_of(const v1::Event& event) {
  EventKey key{.kind = event.kind_case()};
  if (event.has_step()) key = {event.kind_case(), event.step().step(), event.step().attempt()};
  if (event.has_eval()) key.step = event.eval().step();
  if (event.has_checkpoint()) key.step = event.checkpoint().step();
  return key;
}

Result<v1::Event> read_event(const Statement& row) {
  v1::Event event;
  if (event.ParseFromString(row.bytes(0))) return event;
  return absl::DataLossError("database: a stored event is damaged");
}

Result<std::vector<v1::Event>> events_by_step(Database& database, const std::string& job_id,
                                              v1::Event::KindCase kind, int64_t first, int64_t last,
                                              int limit) {
  // SQLite takes the body from the row of the maximum.
  Statement select(database,
                   "SELECT body, max(sequence) FROM events WHERE job_id=? AND kind=? AND step>=? "
                   "AND step<=? GROUP BY step ORDER BY step LIMIT ?");
  return read_rows(select.bind(job_id, kind, first, last, limit), read_event);
}

Result<FinishedRun> read_finished_run(const Statement& row) {
  return FinishedRun{.size = {.flops_per_rank = static_cast<double>(row.integer(0)) * 1e6,
                              .steps = static_cast<double>(row.integer(1)),
                              .weight_bytes = static_cast<double>(row.integer(2))},
                     .step_seconds = static_cast<double>(row.integer(3)) * 1e-9,
                     .other_seconds = static_cast<double>(row.integer(4)) * 1e-9};
}

Status write_request(Database& database, const RequestRecord& request) {
  EMOE_RETURN_IF_ERROR(Statement(database, "DELETE FROM requests WHERE time<?")
                           .bind(nanoseconds(request.time - kRequestsKept))
                           .run());
  Statement insert(database, "INSERT INTO requests VALUES(?,?,?,?,?,?)");
  insert.bind(request.request_id, request.method, request.body_hash, request.job_id);
  insert.bind_blob(request.response).bind(nanoseconds(request.time));
  return insert.run();
}

Status write_change(Database& database, const Change& change) {
  if (change.job) {
    EMOE_RETURN_IF_ERROR(change.fresh_body ? insert_job(database, *change.job, *change.fresh_body)
                                           : write_job(database, *change.job));
  }
  if (change.progress) EMOE_RETURN_IF_ERROR(write_progress(database, *change.progress));
  for (const AttemptRecord& attempt : change.attempts) {
    EMOE_RETURN_IF_ERROR(write_attempt(database, attempt));
  }
  for (const v1::Event& event : change.events) EMOE_RETURN_IF_ERROR(write_event(database, event));
  for (const RankCursor& cursor : change.cursors) {
    Statement upsert(database, "INSERT OR REPLACE INTO cursors VALUES(?,?,?,?)");
    upsert.bind(cursor.job_id, cursor.attempt, cursor.rank, cursor.sequence);
    EMOE_RETURN_IF_ERROR(upsert.run());
  }
  if (change.request) EMOE_RETURN_IF_ERROR(write_request(database, *change.request));
  return change.finished_run ? write_finished_run(database, *change.finished_run) : ok_status();
}

}  // namespace emoe::server
