// What keeps the database bounded and whole: forgetting, free pages, the log, copies, the check.
#include <algorithm>

#include <absl/strings/str_cat.h>
#include <sqlite3.h>

#include "server/job/errors.h"
#include "server/job/job_store.h"
#include "server/job/store_rows.h"
#include "server/job/store_schema.h"

namespace emoe::server {

Result<std::vector<std::string>> JobStore::ended_before(WallTime time, int limit) {
  return read([&](Database& database) -> Result<std::vector<std::string>> {
    Statement select(database,
                     "SELECT id FROM jobs WHERE end_time IS NOT NULL AND end_time<? "
                     "ORDER BY end_time, id LIMIT ?");
    select.bind(nanoseconds(time), limit);
    std::vector<std::string> ids;
    while (select.next()) ids.push_back(select.bytes(0));
    EMOE_RETURN_IF_ERROR(select.status());
    return ids;
  });
}

Result<int> JobStore::remove_events(const std::string& job_id, int most) {
  int removed = 0;
  const Status done = transact([&](Database& database) {
    Statement remove(database,
                     "DELETE FROM events WHERE job_id=?1 AND sequence IN (SELECT sequence FROM "
                     "events WHERE job_id=?1 ORDER BY sequence LIMIT ?2)");
    EMOE_RETURN_IF_ERROR(remove.bind(job_id, most).run());
    removed = sqlite3_changes(database.handle());
    return ok_status();
  });
  EMOE_RETURN_IF_ERROR(done);
  return removed;
}

Result<bool> JobStore::tidy(int pages) {
  const std::lock_guard lock(write_mutex_);
  int64_t surplus = 0;
  {
    Statement counts(
        *writer_,
        "SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count");
    if (!counts.next()) return mapped_store_error(counts.status());
    surplus = counts.integer(0) - counts.integer(1) / 8;
  }
  if (surplus <= 0) return false;
  EMOE_RETURN_IF_ERROR(mapped_store_error(writer_->execute(
      absl::StrCat("PRAGMA incremental_vacuum(", std::min<int64_t>(surplus, pages), ")"))));
  return surplus > pages;
}

Result<int> JobStore::move_log() {
  return read([](Database& database) -> Result<int> {
    int pages = 0;
    int moved = 0;
    const int code = sqlite3_wal_checkpoint_v2(database.handle(), nullptr,
                                               SQLITE_CHECKPOINT_PASSIVE, &pages, &moved);
    if (code != SQLITE_OK) return database.error(code, "checkpoint");
    return moved;
  });
}

Status JobStore::checkpoint() {
  constexpr int kPiece = 250;  // pages that are worth a pass
  constexpr int kMost = 8000;
  constexpr int kRest = 250;  // that commits may wait for
  constexpr int kPasses = 5;
  if (log_pages_ - moved_pages_ < kPiece) return ok_status();
  EMOE_ASSIGN_OR_RETURN(moved_pages_, move_log());
  if (log_pages_ < kMost) return ok_status();
  // Each pass leaves what was committed during it, which is less each time.
  for (int pass = 1; pass < kPasses && log_pages_ - moved_pages_ > kRest; ++pass) {
    EMOE_ASSIGN_OR_RETURN(moved_pages_, move_log());
  }
  // The log begins anew only where nothing is left in it, which while others write is never.
  const std::lock_guard lock(write_mutex_);
  EMOE_RETURN_IF_ERROR(mapped_store_error(writer_->execute("PRAGMA wal_checkpoint(PASSIVE)")));
  log_pages_ = moved_pages_ = 0;
  return ok_status();
}

Result<Backup> JobStore::backup(WallTime now) {
  const std::unique_lock lock(backup_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) {
    return make_error(StatusCode::kFailedPrecondition, "BACKUP_RUNNING",
                      "another backup is being made; wait for it");
  }
  const auto made = back_up(config_.state_dir / kDatabaseName, config_.state_dir / "backups", now);
  if (!made.ok()) return mapped_store_error(made.status());
  return *made;
}

Status JobStore::verify(const std::stop_token& stop) {
  EMOE_ASSIGN_OR_RETURN(
      auto database, Database::open(config_.state_dir / kDatabaseName, Database::Mode::read_only));
  const std::stop_callback interrupt(stop, [&] { sqlite3_interrupt(database->handle()); });
  const Status whole = check_database(*database);
  if (stop.stop_requested()) return absl::CancelledError("stopped");
  unchecked_ = false;
  return absl::IsDataLoss(whole) ? unusable_database(config_.state_dir / kDatabaseName, whole)
                                 : mapped_store_error(whole);
}

}  // namespace emoe::server
