#include "server/job/sqlite.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <sqlite3.h>

#include "base/log.h"

namespace emoe::server {
namespace {

StatusCode code_of(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_FULL:
      return StatusCode::kResourceExhausted;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      return StatusCode::kPermissionDenied;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return StatusCode::kDataLoss;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return StatusCode::kUnavailable;
    default:
      return StatusCode::kInternal;
  }
}

constexpr size_t kShownSql = 60;  // of a statement, in an error

}  // namespace

Result<std::unique_ptr<Database>> Database::open(const std::filesystem::path& path, Mode mode) {
  sqlite3* handle = nullptr;
  // Read-only users of a WAL database must still write its shared-memory index.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
                    (mode == Mode::read_write ? SQLITE_OPEN_CREATE : 0);
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  auto database = std::unique_ptr<Database>(new Database(handle));
  if (handle == nullptr) return absl::ResourceExhaustedError("open " + path.string());
  if (code != SQLITE_OK) return database->error(code, "open " + path.string());
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 5000);
  std::string setup = "PRAGMA foreign_keys=ON;";
  if (mode == Mode::read_only) setup += "PRAGMA query_only=ON;";
  EMOE_RETURN_IF_ERROR(with_context(database->execute(setup), path.string()));
  return database;
}

Database::~Database() {
  for (const auto& [sql, statement] : prepared_) sqlite3_finalize(statement);
  sqlite3_close_v2(handle_);
}

sqlite3_stmt** Database::place_of(std::string_view sql) {
  constexpr size_t kKept = 100;  // lists are asked for in many words
  const auto found = prepared_.find(sql);
  if (found != prepared_.end()) return &found->second;
  if (prepared_.size() >= kKept) return nullptr;
  return &prepared_.emplace(sql, nullptr).first->second;
}

Status Database::execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? ok_status() : error(code, sql.substr(0, kShownSql));
}

Status Database::error(int code, const std::string& what) const {
  return Status(code_of(code), absl::StrCat("database: ", what, ": ", sqlite3_errmsg(handle_)));
}

Statement::Statement(Database& database, std::string_view sql)
    : database_(database), kept_(database.place_of(sql)) {
  if (kept_ != nullptr) statement_ = std::exchange(*kept_, nullptr);
  if (statement_ != nullptr) return;
  ++database.preparations_;
  const int code = sqlite3_prepare_v3(database.handle(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
  if (code != SQLITE_OK) status_ = database_.error(code, std::string(sql.substr(0, kShownSql)));
}

Statement::~Statement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  if (kept_ != nullptr && *kept_ == nullptr) {
    *kept_ = statement_;
  } else {
    sqlite3_finalize(statement_);
  }
}

void Statement::note(int code) {
  if (code == SQLITE_OK || !status_.ok()) return;
  // Which one failed, by its first words; values are bound and not among them.
  const char* sql = statement_ == nullptr ? nullptr : sqlite3_sql(statement_);
  status_ = database_.error(code, sql == nullptr ? "" : std::string(sql).substr(0, kShownSql));
}

void Statement::bind_integer(int64_t value) {
  if (status_.ok()) note(sqlite3_bind_int64(statement_, next_parameter_++, value));
}

void Statement::bind_null() {
  if (status_.ok()) note(sqlite3_bind_null(statement_, next_parameter_++));
}

void Statement::bind_value(const std::string& text) {
  if (status_.ok()) {
    note(sqlite3_bind_text64(statement_, next_parameter_++, text.data(), text.size(),
                             SQLITE_TRANSIENT, SQLITE_UTF8));
  }
}

Statement& Statement::bind_blob(const std::string& bytes) {
  if (status_.ok()) {
    note(sqlite3_bind_blob64(statement_, next_parameter_++, bytes.data(), bytes.size(),
                             SQLITE_TRANSIENT));
  }
  return *this;
}

bool Statement::next() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) note(code);
  return false;
}

Status Statement::run() {
  while (next()) {
  }
  return status_;
}

int64_t Statement::integer_at(int column) const {
  return sqlite3_column_int64(statement_, column);
}

bool Statement::is_null(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::string Statement::bytes(int column) const {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
  return data == nullptr ? std::string() : std::string(data, size);
}

Transaction::Transaction(Database& database)
    : database_(database),
      begun_(Statement(database, "BEGIN IMMEDIATE").run()),
      open_(begun_.ok()) {}

Transaction::~Transaction() {
  // SQLite itself takes a transaction back whose COMMIT met a full disk or an I/O error.
  if (!open_ || sqlite3_get_autocommit(database_.handle()) != 0) return;
  if (const Status status = database_.execute("ROLLBACK"); !status.ok()) {
    log_error("%s", std::string(status.message()));
  }
}

Status Transaction::commit() {
  EMOE_RETURN_IF_ERROR(begun_);
  EMOE_RETURN_IF_ERROR(Statement(database_, "COMMIT").run());
  open_ = false;
  return ok_status();
}

}  // namespace emoe::server
