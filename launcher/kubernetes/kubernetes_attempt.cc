#include "launcher/kubernetes/kubernetes_attempt.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <map>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "base/attempt_contract.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "launcher/kubernetes/launch_script.h"

namespace emoe::launcher {
namespace {

// What a rank says of itself stands whatever else happened to its pod.
constexpr std::array kOwnFailures{ExitCode::configuration, ExitCode::data, ExitCode::non_finite,
                                  ExitCode::out_of_memory};

bool is_own_failure(const AttemptEnd& end) {
  return std::ranges::any_of(
      kOwnFailures, [&](ExitCode code) { return end.exit_code == static_cast<int>(code); });
}

std::string quoted_for_shell(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace

Status KubernetesAttempt::write_environment(const LaunchRequest& request) const {
  std::map<std::string, std::string> variables = request.environment;
  variables[kJobIdVariable] = request.job_id;
  variables[kAttemptVariable] = absl::StrCat(request.attempt);
  variables[kAttemptDirVariable] = request.attempt_dir.string();
  variables[kThreadsVariable] = absl::StrCat(request.threads_per_rank);
  std::string text;
  for (const auto& [name, value] : variables) {
    absl::StrAppend(&text, "export ", name, "=", quoted_for_shell(value), "\n");
  }
  const std::filesystem::path path = files().dir() / kRankEnvironmentFile;
  // Closed before there is anything in it.
  EMOE_ASSIGN_OR_RETURN(FileWriter file, FileWriter::create(path));
  std::error_code error;
  std::filesystem::permissions(
      path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write, error);
  if (error) return errno_status(error.value(), "cannot close " + path.string() + " to others");
  EMOE_RETURN_IF_ERROR(file.write(text));
  return file.close();
}

AttemptEnd KubernetesAttempt::explain(const AttemptState& state) const {
  ExitStatus mpirun;
  if (state.launcher_exit) {
    mpirun = *state.launcher_exit;
  } else if (taken()) {
    mpirun = {0, SIGKILL};  // it never came to its end
  }
  AttemptEnd end = end_of_ranks(mpirun, "mpirun");
  if (is_own_failure(end)) return end;
  end.out_of_memory = end.out_of_memory || state.out_of_memory;
  if (state.out_of_disk) {
    return {.exit_code = static_cast<int>(ExitCode::io),
            .process = "a pod of the attempt",
            .detail = state.detail};
  }
  end.cause = state.cause;
  const bool silent = end.detail.empty() && (end.exit_code != 0 || end.signal != 0);
  if (end.cause != EndCause::ranks || state.out_of_memory || silent) end.detail = state.detail;
  return end;
}

}  // namespace emoe::launcher
