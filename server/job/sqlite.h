#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace emoe::server {

// One connection to an SQLite database file. Not thread-safe: each has one user at a time. Statements
// that were prepared once are kept for the next use of the same words.
class Database {
 public:
  enum class Mode { read_write, read_only };

  // Opens (read_write: creates) the file with a busy timeout of 5 s and foreign keys on.
  // PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk full), DATA_LOSS (no database, or a damaged one).
  [[nodiscard]] static Result<std::unique_ptr<Database>> open(const std::filesystem::path& path,
                                                              Mode mode);
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database();

  [[nodiscard]] Status execute(const std::string& sql);
  // The status that a result code of this connection means, with SQLite's own words.
  [[nodiscard]] Status error(int code, const std::string& what) const;
  [[nodiscard]] sqlite3* handle() const { return handle_; }
  // How many statements were prepared so far: each word of SQL once, but for those that are not kept.
  [[nodiscard]] int64_t preparations() const { return preparations_; }

 private:
  friend class Statement;
  explicit Database(sqlite3* handle) : handle_(handle) {}
  // Where a prepared statement lies while nobody uses it (null: there is none, or it is in use). Stays
  // where it is as long as the database. Null: so many are kept that this one is not.
  [[nodiscard]] sqlite3_stmt** place_of(std::string_view sql);

  // Found by a view: the words of the statements are long, and most are literals.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view sql) const { return std::hash<std::string_view>()(sql); }
  };
  sqlite3* handle_;
  std::unordered_map<std::string, sqlite3_stmt*, Hash, std::equal_to<>> prepared_;
  int64_t preparations_ = 0;
};

// A prepared statement: bind in order, then next() per row. status() keeps the first error; later
// calls do nothing.
class Statement {
 public:
  Statement(Database& database, std::string_view sql);
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement();

  // Texts; integers, bools and enums, all as INTEGER; an empty optional as NULL.
  template <typename... Values>
  Statement& bind(const Values&... values) {
    (bind_value(values), ...);
    return *this;
  }
  Statement& bind_blob(const std::string& bytes);

  // True while there is a row; false at the end and on an error.
  [[nodiscard]] bool next();
  // Runs a statement without rows.
  [[nodiscard]] Status run();

  template <typename T = int64_t>
  [[nodiscard]] T integer(int column) const {
    return static_cast<T>(integer_at(column));
  }
  template <typename T>
  [[nodiscard]] std::optional<T> optional(int column) const {
    return is_null(column) ? std::nullopt : std::optional(integer<T>(column));
  }
  [[nodiscard]] std::string bytes(int column) const;  // text or blob
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  void bind_value(const std::string& text);
  void bind_integer(int64_t value);
  void bind_null();
  template <typename T>
  void bind_value(const T& value) {
    bind_integer(static_cast<int64_t>(value));
  }
  template <typename T>
  void bind_value(const std::optional<T>& value) {
    value ? bind_value(*value) : bind_null();
  }
  [[nodiscard]] int64_t integer_at(int column) const;
  [[nodiscard]] bool is_null(int column) const;
  void note(int code);
  Database& database_;
  sqlite3_stmt** const kept_;  // where it goes back to
  sqlite3_stmt* statement_ = nullptr;
  int next_parameter_ = 1;
  Status status_;
};

// BEGIN IMMEDIATE … COMMIT; rolled back when destroyed without a commit.
class Transaction {
 public:
  explicit Transaction(Database& database);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();
  [[nodiscard]] const Status& begun() const { return begun_; }
  [[nodiscard]] Status commit();

 private:
  Database& database_;
  Status begun_;
  bool open_;
};

}  // namespace emoe::server
