#pragma once

#include <string>
#include <string_view>

#include <absl/strings/str_format.h>

namespace emoe {

enum class LogLevel { debug, info, warning, error };

// Where this process logs: standard error, one line per record:
// "2026-01-31T12:00:00.123Z info  worker rank=0 pid=7: text". `name` says which program and rank.
// Called once by main, before threads start.
void init_logging(const std::string& name, LogLevel level = LogLevel::info);

void log(LogLevel level, std::string_view text);

template <typename... Args>
void log_info(const absl::FormatSpec<Args...>& format, const Args&... args) {
  log(LogLevel::info, absl::StrFormat(format, args...));
}
template <typename... Args>
void log_warning(const absl::FormatSpec<Args...>& format, const Args&... args) {
  log(LogLevel::warning, absl::StrFormat(format, args...));
}
template <typename... Args>
void log_error(const absl::FormatSpec<Args...>& format, const Args&... args) {
  log(LogLevel::error, absl::StrFormat(format, args...));
}

}  // namespace emoe
