#include "launcher/launcher.h"

#include <absl/strings/str_cat.h>

namespace emoe::launcher {

Status check_request(const LaunchRequest& request) {
  if (request.job_id.empty() || request.attempt < 1 || request.ranks < 1 ||
      request.threads_per_rank < 1 || request.worker_argv.empty()) {
    return absl::InvalidArgumentError(
        "a launch needs a job id, an attempt, ranks, threads and a program");
  }
  std::error_code error;
  if (!request.attempt_dir.is_absolute() ||
      !std::filesystem::is_directory(request.attempt_dir, error)) {
    return absl::InvalidArgumentError(absl::StrCat("attempt folder ", request.attempt_dir.string(),
                                                   " does not exist or is not an absolute path"));
  }
  return ok_status();
}

Status on_machine(const Status& status) {
  return status.ok() ? status : absl::DataLossError(std::string(status.message()));
}

}  // namespace emoe::launcher
