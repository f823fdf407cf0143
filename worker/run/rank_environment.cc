#include "worker/run/rank_environment.h"

#include <cstdlib>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

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

}  // namespace

RankEnvironment read_rank_environment() {
  RankEnvironment environment;
  environment.launched = launched_world_size().has_value();
  environment.rank = launched_rank().value_or(0);
  environment.world_size = launched_world_size().value_or(1);
  environment.local_rank = launched_local_rank().value_or(0);
  if (const std::string address = text_of("EMOE_COORDINATOR"); !address.empty()) {
    environment.coordinator = RankEnvironment::Coordinator{
        .address = address,
        .job_id = text_of("EMOE_JOB_ID"),
        .attempt = number_of("EMOE_ATTEMPT", 1),
        .token = text_of("EMOE_ATTEMPT_TOKEN"),
        .attempt_dir = text_of("EMOE_ATTEMPT_DIR"),
        .reconnect_grace_seconds = number_of("EMOE_RECONNECT_GRACE_SECONDS", 300)};
  }
  environment.cache_dir = text_of("EMOE_CACHE_DIR");
  environment.metrics_listen = text_of("EMOE_METRICS_LISTEN");
  if (environment.metrics_listen.empty()) environment.metrics_listen = "127.0.0.1:0";
  environment.expert_metrics = number_of("EMOE_METRICS_EXPERTS", 0) != 0;
  return environment;
}

}  // namespace emoe::worker
