#pragma once

#include "base/status.h"
#include "server/job/sqlite.h"

namespace emoe::server {

// A file up to this size is checked whole before it is used; of a larger one that would take longer
// than a start may, so it is left to check_database() in the background.
inline constexpr int64_t kCheckedAtStart = int64_t{64} << 20;

// DATA_LOSS where pages of the file are damaged. Reads all of it.
[[nodiscard]] Status check_database(Database& database);
// Of the file, without its log.
[[nodiscard]] Result<int64_t> database_bytes(Database& database);

// Turns on the write-ahead log, checks the file, and brings a new or older database to the version
// of the tables that this program reads and writes, in one transaction. DATA_LOSS when it is
// damaged, FAILED_PRECONDITION when a newer program wrote it or there is no write-ahead log on this
// file system.
[[nodiscard]] Status prepare_schema(Database& database);

}  // namespace emoe::server
