#include "launcher/async_launcher.h"

#include <utility>

namespace emoe::launcher {

void AsyncLauncher::launch(const LaunchHandle& handle, LaunchRequest request,
                           std::function<Status()> prepare) {
  add(handle, Wish{std::move(request), std::move(prepare)});
}

void AsyncLauncher::watch(const LaunchHandle& handle) {
  add(handle, std::nullopt);
}

void AsyncLauncher::add(const LaunchHandle& handle, std::optional<Wish> launch) {
  const std::lock_guard lock(mutex_);
  auto& attempt = attempts_[handle.text];
  if (attempt) return;
  attempt = std::make_shared<Attempt>(handle);
  attempt->launch = std::move(launch);
  news_ = true;
  wished_.notify_one();
}

void AsyncLauncher::stop(const LaunchHandle& handle, StopMode mode) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle.text);
  if (found == attempts_.end()) return;
  Attempt& attempt = *found->second;
  attempt.launch.reset();
  if (attempt.stop != StopMode::kill) attempt.stop = mode;
  // A repetition waits for the next pass: one attempt that cannot be killed must not hold up the
  // others.
  if (attempt.stop_tried != mode) attempt.due = true;
  news_ = true;
  wished_.notify_one();
}

void AsyncLauncher::forget(const LaunchHandle& handle) {
  const std::lock_guard lock(mutex_);
  attempts_.erase(handle.text);
}

std::optional<AsyncLauncher::View> AsyncLauncher::view(const LaunchHandle& handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle.text);
  if (found == attempts_.end()) return std::nullopt;
  return found->second->view;
}

void AsyncLauncher::work(const std::stop_token& stop) {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [text, attempt] : attempts_) attempt->due = true;
    news_ = false;
  }
  while (!stop.stop_requested()) {
    const auto attempt = next();
    if (!attempt) return;
    serve(*attempt);
  }
}

void AsyncLauncher::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    work(stop);
    std::unique_lock lock(mutex_);
    wished_.wait_for(lock, stop, config_.poll_interval, [this] { return news_; });
  }
}

std::shared_ptr<AsyncLauncher::Attempt> AsyncLauncher::next() {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Attempt> chosen;
  for (const auto& [text, attempt] : attempts_) {
    if (!attempt->due) continue;
    const bool wished = attempt->launch || attempt->stop;
    if (!chosen || wished) chosen = attempt;
    if (wished) break;
  }
  if (chosen) chosen->due = false;
  return chosen;
}

void AsyncLauncher::serve(Attempt& attempt) {
  carry_out_stop(attempt);
  Result<AttemptStatus> status = launcher_.poll(attempt.handle);
  Status launched;
  if (status.status().code() == StatusCode::kNotFound) {
    std::optional<Wish> wish;
    {
      const std::lock_guard lock(mutex_);
      wish = std::exchange(attempt.launch, std::nullopt);
    }
    if (wish) {
      launched = wish->prepare();
      launched = launched.ok() ? launcher_.launch(wish->request).status()
                               : absl::DataLossError(launched.message());
      status =
          launched.ok() ? AttemptStatus{AttemptPhase::running, {}} : launcher_.poll(attempt.handle);
    }
  }
  publish(attempt, std::move(status), launched);
}

void AsyncLauncher::carry_out_stop(Attempt& attempt) {
  std::optional<StopMode> mode;
  {
    const std::lock_guard lock(mutex_);
    mode = attempt.stop;
  }
  if (!mode) return;
  const Status status = launcher_.stop(attempt.handle, *mode);
  const std::lock_guard lock(mutex_);
  attempt.view.stop = status;
  attempt.stop_tried = mode;
  const bool taken = status.ok() || status.code() == StatusCode::kNotFound;
  if (taken && attempt.stop == mode) attempt.stop.reset();
}

void AsyncLauncher::publish(Attempt& attempt, Result<AttemptStatus> status, const Status& launch) {
  const auto kind_of = [](const Result<AttemptStatus>& s) {
    return std::pair(s.status().code(), s.ok() ? s->phase : AttemptPhase::unknown);
  };
  bool changed = false;
  {
    const std::lock_guard lock(mutex_);
    auto& last = attempt.view.status;
    changed = !last || kind_of(*last) != kind_of(status);
    if (status.ok()) attempt.launch.reset();  // the engine has it
    last = std::move(status);
    attempt.view.launch.Update(launch);
  }
  if (changed && listener_) listener_();
}

}  // namespace emoe::launcher
