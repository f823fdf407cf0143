#include "worker/run/rank_environment.h"

#include <algorithm>
#include <cstdlib>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "base/attempt_contract.h"
#include "base/process.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

std::string text_of(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int number_of(const char* name, int fallback) {
  const std::string text = text_of(name);
  if (text.empty()) return fallback;
  int value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    throw JobError(ExitCode::configuration, absl::StrCat(name, "=", text, ": not a number"));
  }
  return value;
}

// OpenMP's variable comes first, then what srun or sbatch gave each task.
void read_threads(RankEnvironment& environment) {
  const Result<int> limit = threads_of_variable("OMP_THREAD_LIMIT");
  if (!limit.ok()) throw JobError(ExitCode::configuration, limit.status());
  environment.thread_limit = *limit;
  for (const char* name : {kThreadsVariable, "SLURM_CPUS_PER_TASK"}) {
    const Result<int> said = threads_of_variable(name);
    if (!said.ok()) throw JobError(ExitCode::configuration, said.status());
    environment.threads = *said;
    environment.threads_variable = name;
    if (*said > 0) return;
  }
}

}  // namespace

RankEnvironment read_rank_environment() {
  RankEnvironment environment;
  const std::optional<LaunchedRank> launched = launched_rank();
  environment.launched = launched.has_value();
  environment.no_pmix = srun_without_pmix();
  static_cast<LaunchedRank&>(environment) = launched.value_or(LaunchedRank{});
  read_threads(environment);
  if (const std::string address = text_of(kCoordinatorVariable); !address.empty()) {
    SessionClient::Config& session = environment.coordinator.emplace();
    session.address = address;
    session.job_id = text_of(kJobIdVariable);
    session.attempt = number_of(kAttemptVariable, session.attempt);
    session.token = text_of(kAttemptTokenVariable);
    session.tls_ca = text_of(kTlsCaVariable);
    session.tls_certificate = text_of(kTlsCertificateVariable);
    session.tls_key = text_of(kTlsKeyVariable);
    session.reconnect_grace = std::chrono::seconds(
        number_of(kReconnectGraceVariable, static_cast<int>(session.reconnect_grace.count())));
    if (const std::filesystem::path folder = text_of(kAttemptDirVariable); !folder.empty()) {
      session.unacked_file = folder / left_reports_file(environment.rank);
    }
  }
  for (const auto& root : std::vector<std::string>(
           absl::StrSplit(text_of(kAllowedRootsVariable), ':', absl::SkipEmpty()))) {
    environment.allowed_roots.emplace_back(root);
  }
  environment.cache_dir = text_of(kCacheVariable);
  environment.metrics_listen = text_of(kMetricsListenVariable);
  if (environment.metrics_listen.empty()) environment.metrics_listen = "127.0.0.1:0";
  environment.expert_metrics = number_of("EMOE_METRICS_EXPERTS", 0) != 0;
  environment.ffn = text_of("EMOE_FFN");
  environment.weights = text_of("EMOE_WEIGHTS");
  environment.test_hold = text_of("EMOE_TEST_HOLD");
  return environment;
}

int threads_of_rank(const RankEnvironment& environment, int wanted, int cores) {
  const int said = wanted > 0 ? wanted : environment.threads;
  const auto limited = [limit = environment.thread_limit](int threads) {
    return limit > 0 ? std::min(threads, limit) : threads;
  };
  if (said == 0) return limited(std::max(1, cores / std::max(1, environment.local_size)));
  // More is a slip of the hand, and thousands of threads are started one by one for minutes.
  const int most = std::max(64, 4 * cores);
  if (said <= most) return limited(said);
  throw JobError(
      ExitCode::configuration,
      absl::StrCat(wanted > 0 ? "resources.threads_per_rank" : environment.threads_variable, ": ",
                   said, " threads on ", cores, " usable ", cores == 1 ? "core" : "cores",
                   "; at most ", most));
}

}  // namespace emoe::worker
