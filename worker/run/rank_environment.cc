#include "worker/run/rank_environment.h"

#include <algorithm>
#include <cstdlib>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "worker/comm/mpi/mpi_session.h"
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

// OpenMP's own variable may be a list, one number for each level of nesting.
int threads_said() {
  const std::string list = text_of(kThreadsVariable);
  int threads = 0;
  if (list.empty()) return 0;
  if (!absl::SimpleAtoi(list.substr(0, list.find(',')), &threads) || threads < 1) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat(kThreadsVariable, "=", list, ": not a number of threads"));
  }
  return threads;
}

}  // namespace

RankEnvironment read_rank_environment() {
  RankEnvironment environment;
  environment.launched = launched_world_size().has_value();
  environment.rank = launched_rank().value_or(0);
  environment.world_size = launched_world_size().value_or(1);
  environment.local_rank = launched_local_rank().value_or(0);
  environment.local_size = launched_local_size().value_or(environment.world_size);
  environment.threads = threads_said();
  if (const std::string address = text_of(kCoordinatorVariable); !address.empty()) {
    environment.coordinator = RankEnvironment::Coordinator{
        .address = address,
        .job_id = text_of(kJobIdVariable),
        .attempt = number_of(kAttemptVariable, 1),
        .token = text_of(kAttemptTokenVariable),
        .attempt_dir = text_of(kAttemptDirVariable),
        .reconnect_grace_seconds = number_of(kReconnectGraceVariable, 300)};
  }
  environment.cache_dir = text_of("EMOE_CACHE_DIR");
  environment.metrics_listen = text_of("EMOE_METRICS_LISTEN");
  if (environment.metrics_listen.empty()) environment.metrics_listen = "127.0.0.1:0";
  environment.expert_metrics = number_of("EMOE_METRICS_EXPERTS", 0) != 0;
  environment.test_hold = text_of("EMOE_TEST_HOLD");
  return environment;
}

int threads_of_rank(const RankEnvironment& environment, int wanted, int cores) {
  if (wanted > 0) return wanted;
  if (environment.threads > 0) return environment.threads;
  return std::max(1, cores / std::max(1, environment.local_size));
}

}  // namespace emoe::worker
