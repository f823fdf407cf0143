#include "server/control/housekeeper.h"

#include <condition_variable>
#include <mutex>

#include "base/log.h"

namespace emoe::server {
namespace {

constexpr int kForgottenAtOnce = 100;  // jobs
constexpr int kPagesAtOnce = 256;      // a MiB

}  // namespace

Housekeeper::Housekeeper(Config config, JobStore& store, Controller& controller, const Clock& clock)
    : config_(config), store_(store), controller_(controller), clock_(clock), failures_(clock) {}

void Housekeeper::round(const std::stop_token& stop) {
  failures_.note("the log could not be moved into the database", store_.checkpoint());
  if (store_.unchecked()) verify(stop);
  const SteadyTime now = clock_.steady_now();
  if (last_cleaning_ && now - *last_cleaning_ < config_.cleaning_interval) return;
  clean(stop);
  last_cleaning_ = now;
}

void Housekeeper::clean(const std::stop_token& stop) {
  if (config_.retention.count() > 0) {
    int forgotten = kForgottenAtOnce;
    while (forgotten == kForgottenAtOnce && !stop.stop_requested()) {
      const auto done =
          controller_.forget_ended(clock_.wall_now() - config_.retention, kForgottenAtOnce, stop);
      failures_.note("ended jobs could not be forgotten", done.status());
      forgotten = done.value_or(0);
      if (forgotten > 0) log_info("%d jobs forgotten that ended before the retention", forgotten);
    }
  }
  for (bool more = true; more && !stop.stop_requested();) {
    const auto tidied = store_.tidy(kPagesAtOnce);
    failures_.note("free pages could not be given back", tidied.status());
    more = tidied.value_or(false);
  }
}

void Housekeeper::verify(const std::stop_token& stop) {
  const Status whole = store_.verify(stop);
  if (stop.stop_requested()) return;
  if (!whole.ok()) log_error("%s", std::string(whole.message()));
}

void Housekeeper::run(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  while (!stop.stop_requested()) {
    round(stop);
    stopped.wait_for(lock, stop, config_.interval, [] { return false; });
  }
}

}  // namespace emoe::server
