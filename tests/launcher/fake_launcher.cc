#include "tests/launcher/fake_launcher.h"

#include <csignal>

#include <absl/strings/str_cat.h>

#include "base/check.h"

namespace emoe::launcher {

LaunchHandle FakeLauncher::handle_of(const std::string& job_id, int attempt) {
  return {absl::StrCat("fake:", job_id, "/", attempt)};
}

Result<LaunchHandle> FakeLauncher::launch(const LaunchRequest& request) {
  const std::lock_guard lock(mutex_);
  const LaunchHandle handle = handle_of(request.job_id, request.attempt);
  if (request.ranks < 1) return absl::InvalidArgumentError("a launch needs ranks");
  if (attempts_.contains(handle.text)) return handle;
  if (!launch_error_.ok() && !launch_anyway_) return launch_error_;
  attempts_[handle.text] = {request, {AttemptPhase::running, {}}, false, ""};
  launches_.push_back(request);
  launched_.notify_all();
  if (!launch_error_.ok()) return launch_error_;
  return handle;
}

Result<AttemptStatus> FakeLauncher::poll(const LaunchHandle& handle) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle.text);
  if (found == attempts_.end()) return absl::NotFoundError(absl::StrCat("no ", handle.text));
  if (found->second.unknown) return AttemptStatus{AttemptPhase::unknown, {}};
  return found->second.status;
}

Status FakeLauncher::stop(const LaunchHandle& handle, StopMode mode) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle.text);
  if (found == attempts_.end()) return absl::NotFoundError(absl::StrCat("no ", handle.text));
  Attempt& attempt = found->second;
  stops_.push_back({attempt.request.job_id, attempt.request.attempt, mode});
  if (attempt.status.phase == AttemptPhase::ended) return ok_status();
  if (mode == StopMode::kill && !survive_kill_) {
    attempt.status = {AttemptPhase::ended, {.signal = SIGKILL, .detail = "killed"}};
  }
  return ok_status();
}

Result<LogTail> FakeLauncher::log(const LaunchHandle& handle, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle.text);
  if (found == attempts_.end()) return LogTail{};
  const std::string& all = found->second.printed;
  if (all.size() <= bytes) return LogTail{all, false};
  return LogTail{all.substr(all.size() - bytes), true};
}

void FakeLauncher::print(const std::string& job_id, int attempt, const std::string& text) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle_of(job_id, attempt).text);
  EMOE_CHECK(found != attempts_.end(), "the attempt was never launched");
  found->second.printed += text;
}

void FakeLauncher::end(const std::string& job_id, int attempt, AttemptEnd end) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle_of(job_id, attempt).text);
  EMOE_CHECK(found != attempts_.end(), "the attempt was never launched");
  found->second.status = {AttemptPhase::ended, std::move(end)};
}

void FakeLauncher::set_queued(const std::string& job_id, int attempt, const std::string& why) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle_of(job_id, attempt).text);
  EMOE_CHECK(found != attempts_.end(), "the attempt was never launched");
  found->second.status = {why.empty() ? AttemptPhase::running : AttemptPhase::queued, {}, why};
}

void FakeLauncher::set_no_room(const std::string& job_id, int attempt, const std::string& why,
                               std::optional<int> room) {
  set_queued(job_id, attempt, why);
  const std::lock_guard lock(mutex_);
  AttemptStatus& status = attempts_.at(handle_of(job_id, attempt).text).status;
  status.no_room = true;
  status.room = room;
}

void FakeLauncher::set_unknown(const std::string& job_id, int attempt, bool unknown) {
  const std::lock_guard lock(mutex_);
  const auto found = attempts_.find(handle_of(job_id, attempt).text);
  EMOE_CHECK(found != attempts_.end(), "the attempt was never launched");
  found->second.unknown = unknown;
}

void FakeLauncher::forget(const std::string& job_id, int attempt) {
  const std::lock_guard lock(mutex_);
  attempts_.erase(handle_of(job_id, attempt).text);
}

void FakeLauncher::fail_launches(Status error, bool anyway) {
  const std::lock_guard lock(mutex_);
  launch_error_ = std::move(error);
  launch_anyway_ = anyway;
}

void FakeLauncher::survive_kill(bool survive) {
  const std::lock_guard lock(mutex_);
  survive_kill_ = survive;
}

std::vector<LaunchRequest> FakeLauncher::launches() const {
  const std::lock_guard lock(mutex_);
  return launches_;
}

std::vector<FakeLauncher::Stop> FakeLauncher::stops() const {
  const std::lock_guard lock(mutex_);
  return stops_;
}

std::optional<LaunchRequest> FakeLauncher::wait_for_launch(const std::string& job_id, int attempt,
                                                           std::chrono::milliseconds timeout) {
  const std::string key = handle_of(job_id, attempt).text;
  std::unique_lock lock(mutex_);
  if (!launched_.wait_for(lock, timeout, [&] { return attempts_.contains(key); })) {
    return std::nullopt;
  }
  return attempts_.at(key).request;
}

}  // namespace emoe::launcher
