#include "server/job/store_backup.h"

#include <absl/strings/str_cat.h>
#include <absl/time/time.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/sha256.h"
#include "server/job/errors.h"
#include "server/job/sqlite.h"
#include "server/job/store_schema.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

constexpr char kUnfinished[] = ".unfinished";

// The copy holds the secrets that ranks join with.
Status prepare_folder(const fs::path& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_status(errno, "cannot create folder " + folder.string());
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (entry.path().extension() == kUnfinished) fs::remove(entry.path(), ignored);
  }
  return error ? errno_status(error.value(), folder.string()) : ok_status();
}

// jobs-20260131-235959.db, or with a number where there is one of that second.
fs::path new_name(const fs::path& folder, WallTime now) {
  const std::string stem = absl::StrCat(
      "jobs-", absl::FormatTime("%Y%m%d-%H%M%S", absl::FromChrono(now), absl::UTCTimeZone()));
  fs::path path = folder / (stem + ".db");
  for (int i = 2; fs::exists(path); ++i) path = folder / absl::StrCat(stem, "-", i, ".db");
  return path;
}

Status check_room(const fs::path& folder, int64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error) return errno_status(error.value(), folder.string());
  if (static_cast<int64_t>(space.available) >= bytes) return ok_status();
  return make_error(
      StatusCode::kResourceExhausted, "DISK_TOO_SMALL",
      absl::StrCat("a backup takes up to ", bytes, " bytes, the disk of ", folder.string(), " has ",
                   space.available, " free"),
      {{"needed_bytes", absl::StrCat(bytes)}, {"available_bytes", absl::StrCat(space.available)}});
}

// VACUUM INTO reads one state of the database and lets writers go on.
Status copy_checked(const fs::path& database, const fs::path& file) {
  EMOE_ASSIGN_OR_RETURN(const auto source, Database::open(database, Database::Mode::read_write));
  EMOE_ASSIGN_OR_RETURN(const int64_t bytes, database_bytes(*source));
  EMOE_RETURN_IF_ERROR(check_room(file.parent_path(), bytes));
  {
    Statement vacuum(*source, "VACUUM INTO ?");
    EMOE_RETURN_IF_ERROR(vacuum.bind(file.string()).run());
  }
  if (::chmod(file.c_str(), 0600) != 0) return errno_status(errno, file.string());
  EMOE_ASSIGN_OR_RETURN(const auto made, Database::open(file, Database::Mode::read_only));
  return check_database(*made);
}

}  // namespace

Result<Backup> back_up(const fs::path& database, const fs::path& folder, WallTime now) {
  EMOE_RETURN_IF_ERROR(prepare_folder(folder));
  Backup backup{.path = new_name(folder, now), .sha256 = {}, .time = now};
  fs::path unfinished = backup.path;
  unfinished += kUnfinished;
  Status made = copy_checked(database, unfinished);
  if (made.ok()) made = sync_file(unfinished);
  auto sum = made.ok() ? sha256_of_file(unfinished) : Result<std::string>(made);
  if (!sum.ok()) {
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    return with_context(sum.status(), "backup");
  }
  backup.sha256 = *sum;
  std::error_code error;
  backup.bytes = static_cast<int64_t>(fs::file_size(unfinished, error));
  EMOE_RETURN_IF_ERROR(rename_durably(unfinished, backup.path));
  EMOE_RETURN_IF_ERROR(
      write_file_atomically(backup.path.string() + ".sha256",
                            absl::StrCat(*sum, "  ", backup.path.filename().string(), "\n")));
  return backup;
}

}  // namespace emoe::server
