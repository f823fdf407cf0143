#include "cli/wait_view.h"

namespace emoe::cli {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::seconds kPlainLine{10};

}  // namespace

void WaitView::show(const v1::Event& event) {
  progress_.apply(event);
  if (is_milestone(event)) note(event_line(event));
  draw();
}

void WaitView::note(const std::string& text) {
  clear_bar();
  terminal_.err << text << "\n" << std::flush;
  if (terminal_.err_width > 0) last_drawn_ = {};  // the bar comes back at once
}

void WaitView::finish() {
  clear_bar();
  terminal_.err << std::flush;
}

void WaitView::clear_bar() {
  if (bar_shown_) terminal_.err << "\r\x1b[K";
  bar_shown_ = false;
}

void WaitView::draw() {
  const SteadyTime now = terminal_.clock.steady_now();
  const bool is_bar = terminal_.err_width > 0;
  const auto pause = is_bar ? std::chrono::steady_clock::duration(kRedraw)
                            : std::chrono::steady_clock::duration(kPlainLine);
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

}  // namespace emoe::cli
