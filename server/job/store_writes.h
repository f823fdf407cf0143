#pragma once

#include <string>
#include <vector>

#include "server/job/job_store.h"
#include "server/job/sqlite.h"
#include "server/job/types.h"

// The statements behind JobStore: how records become rows and back. Only JobStore uses them.
namespace emoe::server {

[[nodiscard]] Status write_change(Database& database, const Change& change);
// Also forgets the requests that were answered kRequestsKept before this one.
[[nodiscard]] Status write_request(Database& database, const RequestRecord& request);
// Times are stored as nanoseconds since the epoch.
[[nodiscard]] WallTime wall_time(int64_t nanoseconds);

// Selects the columns read_job() reads.
extern const char* const kSelectJob;
[[nodiscard]] Result<JobRecord> read_job(const Statement& row);
[[nodiscard]] Result<std::vector<AttemptRecord>> read_attempts(Database& database,
                                                               const std::string& job_id);
[[nodiscard]] Result<JobPage> list_jobs(Database& database, const JobQuery& query);

// Every row's first column as a message.
template <typename Message>
[[nodiscard]] Result<std::vector<Message>> read_messages(Statement& select) {
  std::vector<Message> messages;
  while (select.next()) {
    Message message;
    if (!message.ParseFromString(select.bytes(0))) {
      return absl::DataLossError("database: a stored " + message.GetTypeName() + " is damaged");
    }
    messages.push_back(std::move(message));
  }
  EMOE_RETURN_IF_ERROR(select.status());
  return messages;
}

}  // namespace emoe::server
