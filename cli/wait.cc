#include <atomic>

#include <absl/strings/str_cat.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/watcher.h"

namespace emoe::cli {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::milliseconds kPlainLine{10'000};

// Shows progress on standard error: on a terminal one bar that is redrawn, with milestones above it;
// else a line for each milestone and a progress line now and then.
class WaitView {
 public:
  explicit WaitView(const Terminal& terminal) : terminal_(terminal) {}

  void show(const v1::Event& event) {
    progress_.apply(event);
    if (is_milestone(event)) note(event_line(event));
    draw();
  }

  // A line of its own (a broken connection, Ctrl-C).
  void note(const std::string& text) {
    clear_bar();
    terminal_.err << text << "\n" << std::flush;
    if (terminal_.err_width > 0) last_drawn_ = {};  // the bar comes back at once
  }

  void clear_bar() {
    if (bar_shown_) terminal_.err << "\r\x1b[K" << std::flush;
    bar_shown_ = false;
  }

 private:
  void draw() {
    const SteadyTime now = terminal_.clock.steady_now();
    const bool is_bar = terminal_.err_width > 0;
    const std::chrono::milliseconds pause = is_bar ? kRedraw : kPlainLine;
    if (last_drawn_ != SteadyTime{} && now - last_drawn_ < pause) return;
    if (!is_bar && progress_.steps_done() == 0) return;  // milestones say it all
    last_drawn_ = now;
    if (is_bar) {
      // One column stays free: some terminals wrap after the last.
      terminal_.err << "\r" << progress_.bar(terminal_.err_width - 1) << "\x1b[K" << std::flush;
      bar_shown_ = true;
    } else {
      terminal_.err << progress_.line() << "\n" << std::flush;
    }
  }

  const Terminal& terminal_;
  Progress progress_;
  bool bar_shown_ = false;
  SteadyTime last_drawn_{};
};

// Why a job waits is no event: it is asked for in each state that lasts.
class WhyItWaits {
 public:
  WhyItWaits(Client& client, std::string job_id) : client_(client), job_id_(std::move(job_id)) {}

  // "" where there is nothing new to say.
  std::string after(const v1::Event& event) {
    if (event.has_state_change()) {
      const v1::JobState state = event.state_change().to();
      asks_ = state == v1::QUEUED || state == v1::STARTING;
    }
    v1::Job job;
    if (!asks_ || !event.has_heartbeat() || !client_.get_job(job_id_, job).ok()) return "";
    asks_ = job.message().empty();
    return job.message();
  }

 private:
  Client& client_;
  const std::string job_id_;
  bool asks_ = false;
};

}  // namespace

int print_end(const Command& command, const v1::Job& job) {
  command.print(job, [&] { return command.text_of(job); });
  return exit_code_of(job);
}

int wait_for_job(const Command& command, Client& client, const std::string& job_id,
                 int (*print)(const Command&, const v1::Job&)) {
  const Terminal& terminal = command.terminal;
  Watcher watcher(client,
                  {.job_id = job_id, .wait_for_server = true, .pause = terminal.retry_pause});
  WaitView view(terminal);
  WhyItWaits why(client, job_id);
  std::atomic<bool> interrupted = false;
  grpc::Status status;
  {
    const InterruptGuard guard([&] {
      interrupted = true;
      watcher.stop();
    });
    const auto show = [&](const v1::Event& event) {
      view.show(event);
      if (const std::string reason = why.after(event); !reason.empty()) {
        view.note(absl::StrCat(job_id, ": ", reason));
      }
    };
    status = watcher.run(show, [&](const std::string& note) { view.note(note); });
  }
  view.clear_bar();
  if (interrupted) {
    terminal.err << "the job goes on: `emoectl watch " << job_id << "` follows it, `emoectl cancel "
                 << job_id << "` ends it" << std::endl;
    return kExitInterrupted;
  }
  if (!status.ok()) return command.fail(status);
  v1::Job job;
  const grpc::Status got = client.get_job(job_id, job);
  return got.ok() ? print(command, job) : command.fail(got);
}

}  // namespace emoe::cli
