#include "cli/watcher.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cli/format.h"
#include "cli/progress.h"

namespace emoe::cli {
namespace {

// The errors that a restart of the coordinator or a cut connection causes.
bool is_transient(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:  // ended without the terminal event
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::CANCELLED:
      return true;
    default:
      return false;
  }
}

std::string break_text(const grpc::Status& status) {
  return absl::StrCat("connection lost (",
                      status.ok() ? "the stream ended" : printable(status.error_message()),
                      "), trying again; the job is not affected");
}

}  // namespace

grpc::Status Watcher::run(const std::function<void(const v1::Event&)>& on_event,
                          const std::function<void(const std::string&)>& on_note) {
  while (true) {
    grpc::Status status;
    const Next next = read_stream(on_event, on_note, status);
    {
      const std::lock_guard lock(mutex_);
      if (next == Next::ended) return grpc::Status::OK;
      if (stopped_) return {grpc::StatusCode::CANCELLED, "stopped"};
    }
    if (next == Next::reopen_now) continue;
    if (!is_transient(status) || (!ever_connected_ && !options_.wait_for_server)) return status;
    if (status.ok() && job_has_ended()) return grpc::Status::OK;
    if (++failures_ > options_.max_failures) {
      if (!status.ok()) return status;
      return {grpc::StatusCode::UNAVAILABLE, "the event stream ends again and again"};
    }
    if (failures_ == 1) on_note(break_text(status));
    wait_before_retry();
  }
}

Watcher::Next Watcher::read_stream(const std::function<void(const v1::Event&)>& on_event,
                                   const std::function<void(const std::string&)>& on_note,
                                   grpc::Status& status) {
  grpc::ClientContext context;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return Next::reopen_later;
    open_stream_ = &context;
  }
  status = client_.authorize(context);
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    open_stream_ = nullptr;
    return Next::reopen_later;
  }
  v1::WatchJobRequest request;
  request.set_id(options_.job_id);
  request.set_from_sequence(options_.from_sequence);
  const auto reader = client_.stub().WatchJob(&context, request);
  Next next = Next::reopen_later;
  v1::Event event;
  while (next == Next::reopen_later && reader->Read(&event)) {
    ever_connected_ = true;
    if (std::exchange(failures_, 0) > 0) on_note("connected again");
    if (event.has_lagged()) {
      options_.from_sequence =
          std::max(options_.from_sequence, event.lagged().resume_from_sequence());
      next = Next::reopen_now;
    } else if (event.sequence() > 0) {
      if (event.sequence() < options_.from_sequence) continue;  // seen before the break
      options_.from_sequence = event.sequence() + 1;
      if (event.has_state_change() && is_terminal(event.state_change().to())) next = Next::ended;
    }
    on_event(event);
  }
  if (next != Next::reopen_later) context.TryCancel();  // the server may have more to say
  const grpc::Status finished = reader->Finish();
  status = next == Next::reopen_later ? finished : grpc::Status::OK;
  if (status.ok()) ever_connected_ = true;
  const std::lock_guard lock(mutex_);
  open_stream_ = nullptr;
  return next;
}

bool Watcher::job_has_ended() {
  v1::Job job;
  return client_.get_job(options_.job_id, job).ok() && is_terminal(job.state());
}

void Watcher::wait_before_retry() {
  std::unique_lock lock(mutex_);
  stopped_changed_.wait_for(lock, options_.pause * std::min(failures_, 10),
                            [this] { return stopped_; });
}

void Watcher::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  if (open_stream_ != nullptr) open_stream_->TryCancel();
  stopped_changed_.notify_all();
}

}  // namespace emoe::cli
