#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/job/job_store.h"
#include "server/job/sqlite.h"
#include "server/job/types.h"

// The statements behind JobStore: how records become rows and back.
namespace emoe::server {

[[nodiscard]] Status write_change(Database& database, const Change& change);
// Also forgets the requests that were answered kRequestsKept before this one.
[[nodiscard]] Status write_request(Database& database, const RequestRecord& request);
// Times are stored as nanoseconds since the epoch.
[[nodiscard]] int64_t nanoseconds(WallTime time);
[[nodiscard]] WallTime wall_time(int64_t nanoseconds);

// The columns by which an event is found beside its sequence number.
struct EventKey {
  v1::Event::KindCase kind = v1::Event::KIND_NOT_SET;
  std::optional<int64_t> step;     // of steps, evaluations and checkpoints
  std::optional<int32_t> attempt;  // of steps
};
[[nodiscard]] EventKey key_of(const v1::Event& event);

// What of a job stands in columns of its own beside name, state, priority and create_time.
struct JobColumns {
  int32_t ranks = 1;
  int32_t min_ranks = 0;
  int64_t batch = 0;
  bool on_cpu = false;
  std::optional<int64_t> run_nanoseconds;  // by its plan
  bool resident = false;                   // is_resident()
  std::optional<int64_t> end_time;
};
[[nodiscard]] JobColumns columns_of(const JobRecord& record);

// Selects the columns read_job() reads.
extern const char* const kSelectJob;
[[nodiscard]] Result<JobRecord> read_job(const Statement& row);
[[nodiscard]] Result<AttemptRecord> read_attempt(const Statement& row);  // all columns
// From the columns that JobStore::queued_jobs() selects.
[[nodiscard]] QueuedRow read_queued_row(const Statement& row);
// From the first two columns, the bodies of its rows in jobs and progress.
[[nodiscard]] Result<v1::Job> read_public_job(const Statement& row);
// In store_list.cc.
[[nodiscard]] Result<JobPage> list_jobs(Database& database, const JobQuery& query);
// The event of this kind for each step from `first` to `last`, in order. A step may be done again
// after a retry: its newest event counts.
[[nodiscard]] Result<std::vector<v1::Event>> events_by_step(Database& database,
                                                            const std::string& job_id,
                                                            v1::Event::KindCase kind, int64_t first,
                                                            int64_t last, int limit);

// What `read` makes of each row.
template <typename Row>
[[nodiscard]] Result<std::vector<Row>> read_rows(Statement& select,
                                                 Result<Row> (*read)(const Statement&)) {
  std::vector<Row> rows;
  while (select.next()) {
    EMOE_ASSIGN_OR_RETURN(Row row, read(select));
    rows.push_back(std::move(row));
  }
  EMOE_RETURN_IF_ERROR(select.status());
  return rows;
}
[[nodiscard]] Result<FinishedRun> read_finished_run(const Statement& row);  // all but its names
// The event in the first column.
[[nodiscard]] Result<v1::Event> read_event(const Statement& row);

}  // namespace emoe::server
