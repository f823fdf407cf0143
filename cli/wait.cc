#include <atomic>

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

}  // namespace

int wait_for_job(const Command& command, Client& client, const std::string& job_id) {
  const Terminal& terminal = command.terminal;
  Watcher watcher(client,
                  {.job_id = job_id, .wait_for_server = true, .pause = terminal.retry_pause});
  WaitView view(terminal);
  std::atomic<bool> interrupted = false;
  grpc::Status status;
  {
    const InterruptGuard guard([&] {
      interrupted = true;
      watcher.stop();
    });
    status = watcher.run([&](const v1::Event& event) { view.show(event); },
                         [&](const std::string& note) { view.note(note); });
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
  if (!got.ok()) return command.fail(got);
  command.print(job, [&] { return command.text_of(job); });
  return exit_code_of(job);
}

}  // namespace emoe::cli
