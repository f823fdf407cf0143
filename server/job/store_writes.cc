#include "server/job/store_writes.h"

#include <map>

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

int64_t nanoseconds(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

int64_t nanoseconds(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000'000 + time.nanos();
}

template <typename T>
std::optional<int64_t> as_integer(const std::optional<T>& value) {
  return value ? std::optional<int64_t>(static_cast<int64_t>(*value)) : std::nullopt;
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
  for (const auto& [key, value] : labels) {
    EMOE_RETURN_IF_ERROR(Statement(database, "INSERT INTO labels VALUES(?,?,?)")
                             .bind(job.id())
                             .bind(key)
                             .bind(value)
                             .run());
  }
  return ok_status();
}

Status write_progress(Database& database, const JobProgress& progress) {
  Statement upsert(database, "INSERT OR REPLACE INTO progress VALUES(?,?,?,?)");
  upsert.bind(progress.job_id).bind(progress.next_sequence);
  upsert.bind(int64_t{progress.run_time.count()});
  return upsert.bind_blob(progress.fields.SerializeAsString()).run();
}

Status write_job(Database& database, const JobRecord& record) {
  v1::Job job = record.job;
  job.clear_progress();  // in a row of their own
  job.clear_update_time();
  Statement upsert(database,
                   "INSERT INTO jobs VALUES(?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET "
                   "name=excluded.name, state=excluded.state, priority=excluded.priority, "
                   "revision=excluded.revision, failures=excluded.failures, "
                   "not_before=excluded.not_before, cancel_message=excluded.cancel_message, "
                   "body=excluded.body, idle_requeues=excluded.idle_requeues");
  upsert.bind(job.id()).bind(job.name()).bind(int64_t{job.state()}).bind(int64_t{job.priority()});
  upsert.bind(nanoseconds(job.create_time())).bind(record.revision);
  upsert.bind(int64_t{record.failures});
  upsert.bind(record.not_before ? std::optional<int64_t>(nanoseconds(*record.not_before))
                                : std::nullopt);
  upsert.bind(record.cancel_message).bind_blob(job.SerializeAsString());
  upsert.bind(int64_t{record.idle_requeues});
  EMOE_RETURN_IF_ERROR(upsert.run());
  EMOE_RETURN_IF_ERROR(write_progress(database, progress_of(record)));
  return write_labels(database, record.job);
}

Status write_attempt(Database& database, const AttemptRecord& attempt) {
  Statement upsert(database, "INSERT OR REPLACE INTO attempts VALUES(?,?,?,?,?,?,?,?,?,?)");
  upsert.bind(attempt.job_id).bind(int64_t{attempt.number}).bind(attempt.token);
  upsert.bind(attempt.handle).bind(int64_t{attempt.ended}).bind(as_integer(attempt.stop_reason));
  upsert.bind(attempt.stop_message).bind(as_integer(attempt.end_code));
  return upsert.bind(as_integer(attempt.fault_code)).bind(attempt.fault_message).run();
}

Status write_event(Database& database, const v1::Event& event) {
  Statement insert(database, "INSERT INTO events VALUES(?,?,?,?,?)");
  insert.bind(event.job_id()).bind(event.sequence()).bind_blob(event.SerializeAsString());
  const auto column = [&](int64_t value) {
    return event.has_step() ? std::optional(value) : std::nullopt;
  };
  return insert.bind(column(event.step().step())).bind(column(event.step().attempt())).run();
}

template <typename Message>
Status write_by_step(Database& database, const char* sql, const std::string& job_id,
                     const Message& message) {
  Statement upsert(database, sql);
  return upsert.bind(job_id).bind(message.step()).bind_blob(message.SerializeAsString()).run();
}

const char* order_column(JobQuery::Order order) {
  switch (order) {
    case JobQuery::Order::create_time:
      return "create_time";
    case JobQuery::Order::priority:
      return "priority";
    case JobQuery::Order::name:
      return "name";
  }
  return "create_time";
}

// The WHERE and ORDER BY of a query; bind_query() binds in the same order.
std::string list_sql(const JobQuery& query) {
  std::string sql = absl::StrCat("SELECT jobs.body, progress.body, ", order_column(query.order),
                                 " FROM jobs JOIN progress ON job_id=id WHERE 1");
  if (!query.states.empty()) {
    sql += " AND state IN (?";
    for (size_t i = 1; i < query.states.size(); ++i) sql += ",?";
    sql += ")";
  }
  if (query.name) sql += " AND name=?";
  for (size_t i = 0; i < query.labels.size(); ++i) {
    sql += " AND EXISTS (SELECT 1 FROM labels WHERE labels.job_id=id AND key=? AND value=?)";
  }
  const char* direction = query.descending ? " DESC" : " ASC";
  if (query.after) {
    absl::StrAppend(&sql, " AND (", order_column(query.order), ", id) ",
                    query.descending ? "<" : ">", " (?, ?)");
  }
  absl::StrAppend(&sql, " ORDER BY ", order_column(query.order), direction, ", id", direction,
                  " LIMIT ?");
  return sql;
}

void bind_query(Statement& select, const JobQuery& query) {
  for (const v1::JobState state : query.states) select.bind(int64_t{state});
  if (query.name) select.bind(*query.name);
  for (const auto& [key, value] : query.labels) select.bind(key).bind(value);
  if (query.after) {
    if (query.order == JobQuery::Order::name) {
      select.bind(query.after->key);
    } else {
      select.bind(std::strtoll(query.after->key.c_str(), nullptr, 10));
    }
    select.bind(query.after->id);
  }
  select.bind(int64_t{query.limit} + 1);
}

// From the first two columns, the bodies of its rows in jobs and progress.
Result<v1::Job> read_public_job(const Statement& row) {
  v1::Job job;
  if (job.ParseFromString(row.bytes(0)) && job.MergeFromString(row.bytes(1))) return job;
  return absl::DataLossError("database: a stored job is damaged");
}

}  // namespace

const char* const kSelectJob =
    "SELECT jobs.body, progress.body, next_sequence, run_time, revision, failures, not_before, "
    "cancel_message, idle_requeues FROM jobs JOIN progress ON job_id=id";

JobProgress progress_of(const JobRecord& record) {
  JobProgress progress{.job_id = record.job.id(),
                       .next_sequence = record.next_sequence,
                       .run_time = record.run_time};
  *progress.fields.mutable_progress() = record.job.progress();
  *progress.fields.mutable_update_time() = record.job.update_time();
  return progress;
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
  record.failures = static_cast<int>(row.integer(5));
  if (const auto not_before = row.optional_integer(6)) record.not_before = wall_time(*not_before);
  record.cancel_message = row.bytes(7);
  record.idle_requeues = static_cast<int>(row.integer(8));
  return record;
}

Result<std::vector<AttemptRecord>> read_attempts(Database& database, const std::string& job_id) {
  Statement select(
      database,
      "SELECT number, token, handle, ended, stop_reason, stop_message, end_code, fault_code, "
      "fault_message FROM attempts WHERE job_id=? ORDER BY number");
  select.bind(job_id);
  std::vector<AttemptRecord> attempts;
  while (select.next()) {
    AttemptRecord attempt{.job_id = job_id, .number = static_cast<int>(select.integer(0))};
    attempt.token = select.bytes(1);
    attempt.handle = select.bytes(2);
    attempt.ended = select.integer(3) != 0;
    if (const auto stop_reason = select.optional_integer(4))
      attempt.stop_reason = static_cast<Finding>(*stop_reason);
    attempt.stop_message = select.bytes(5);
    if (const auto code = select.optional_integer(6)) attempt.end_code = static_cast<int>(*code);
    if (const auto code = select.optional_integer(7)) attempt.fault_code = static_cast<int>(*code);
    attempt.fault_message = select.bytes(8);
    attempts.push_back(std::move(attempt));
  }
  EMOE_RETURN_IF_ERROR(select.status());
  return attempts;
}

Status write_request(Database& database, const RequestRecord& request) {
  EMOE_RETURN_IF_ERROR(Statement(database, "DELETE FROM requests WHERE time<?")
                           .bind(nanoseconds(request.time - kRequestsKept))
                           .run());
  Statement insert(database, "INSERT INTO requests VALUES(?,?,?,?,?,?)");
  insert.bind(request.request_id).bind(request.method).bind(request.body_hash);
  insert.bind(request.job_id).bind_blob(request.response).bind(nanoseconds(request.time));
  return insert.run();
}

Status write_change(Database& database, const Change& change) {
  if (change.job) EMOE_RETURN_IF_ERROR(write_job(database, *change.job));
  if (change.progress) EMOE_RETURN_IF_ERROR(write_progress(database, *change.progress));
  for (const AttemptRecord& attempt : change.attempts) {
    EMOE_RETURN_IF_ERROR(write_attempt(database, attempt));
  }
  for (const v1::Event& event : change.events) EMOE_RETURN_IF_ERROR(write_event(database, event));
  for (const auto& [id, eval] : change.evals) {
    EMOE_RETURN_IF_ERROR(
        write_by_step(database, "INSERT OR REPLACE INTO evals VALUES(?,?,?)", id, eval));
  }
  for (const auto& [id, checkpoint] : change.checkpoints) {
    EMOE_RETURN_IF_ERROR(write_by_step(database, "INSERT OR REPLACE INTO checkpoints VALUES(?,?,?)",
                                       id, checkpoint));
  }
  for (const RankCursor& cursor : change.cursors) {
    Statement upsert(database, "INSERT OR REPLACE INTO cursors VALUES(?,?,?,?)");
    upsert.bind(cursor.job_id).bind(int64_t{cursor.attempt}).bind(int64_t{cursor.rank});
    EMOE_RETURN_IF_ERROR(upsert.bind(cursor.sequence).run());
  }
  if (change.request) EMOE_RETURN_IF_ERROR(write_request(database, *change.request));
  return ok_status();
}

Result<JobPage> list_jobs(Database& database, const JobQuery& query) {
  Statement select(database, list_sql(query));
  bind_query(select, query);
  JobPage page;
  std::string last_key;
  while (select.next()) {
    if (static_cast<int>(page.jobs.size()) == query.limit) {
      page.next = JobQuery::Cursor{last_key, page.jobs.back().id()};
      break;
    }
    EMOE_ASSIGN_OR_RETURN(v1::Job job, read_public_job(select));
    last_key = select.bytes(2);
    page.jobs.push_back(std::move(job));
  }
  EMOE_RETURN_IF_ERROR(select.status());
  return page;
}

}  // namespace emoe::server
