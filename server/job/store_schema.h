#pragma once

#include "base/status.h"
#include "server/job/sqlite.h"

namespace emoe::server {

// Turns on the write-ahead log, checks the file, and brings a new or older database to the version
// of the tables that this program reads and writes, in one transaction. DATA_LOSS when it is
// damaged, FAILED_PRECONDITION when a newer program wrote it or there is no write-ahead log on this
// file system.
[[nodiscard]] Status prepare_schema(Database& database);

}  // namespace emoe::server
