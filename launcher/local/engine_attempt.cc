#include "launcher/local/engine_attempt.h"

#include <absl/strings/numbers.h>

#include "base/file.h"

namespace emoe::launcher {

std::string EngineAttempt::given_as() const {
  return text_of(files_, (engine_ + "_job").c_str());
}

Status EngineAttempt::record_given(const std::string& name) const {
  return write_file_atomically(files_.dir() / (engine_ + "_job"), name + "\n");
}

Status EngineAttempt::record_launch(const LaunchRequest& request) const {
  return on_machine(
      write_launch(files_, {request.job_id, request.attempt, request.ranks, request.worker_argv}));
}

Status EngineAttempt::withdraw(const std::string& why) const {
  const auto withdrawn = claim_.withdraw();
  if (!withdrawn.ok()) return on_machine(withdrawn.status());
  return *withdrawn ? absl::UnavailableError(why) : ok_status();
}

AttemptEnd EngineAttempt::end_of_ranks(ExitStatus seen, const std::string& starter) const {
  int said = 0;
  if (absl::SimpleAtoi(text_of(files_, (engine_ + "_exit").c_str()), &said)) seen = {said, 0};
  return end_by_files(files_, read_launch(files_).value_or(LaunchRecord{}).ranks, seen, starter);
}

}  // namespace emoe::launcher
