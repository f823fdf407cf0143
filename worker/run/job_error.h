#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/exit_code.h"
#include "base/status.h"

namespace emoe::worker {

// Ends the rank's run with an exit code; caught once, in main.
class JobError : public std::runtime_error {
 public:
  JobError(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  JobError(ExitCode code, const Status& status) : JobError(code, std::string(status.message())) {}
  [[nodiscard]] ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// The error of a file we read: absent or not allowed → configuration, not what it should be → data,
// anything else (a disk, a limit) → io.
[[nodiscard]] ExitCode input_error_code(const Status& status);
// The error of a file we write: bad names → configuration, anything else → io. Both: no memory →
// out_of_memory.
[[nodiscard]] ExitCode output_error_code(const Status& status);

// The error of an export (weights/export.h): a check that failed → internal, a merge that is not
// finite → non_finite, a base that changed meanwhile, or a warning that is an error → data, anything else as for an output.
[[nodiscard]] ExitCode export_error_code(const Status& status);

template <typename T>
T input_or_throw(Result<T> result) {
  if (!result.ok()) throw JobError(input_error_code(result.status()), result.status());
  return std::move(result).value();
}
inline void input_or_throw(const Status& status) {
  if (!status.ok()) throw JobError(input_error_code(status), status);
}
inline void output_or_throw(const Status& status) {
  if (!status.ok()) throw JobError(output_error_code(status), status);
}

// The exit code of any exception a run may end with.
[[nodiscard]] ExitCode exit_code_of(const std::exception& error);

}  // namespace emoe::worker
