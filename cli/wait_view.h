#pragma once

#include "cli/command.h"
#include "cli/progress.h"

namespace emoe::cli {

// What `submit --wait` shows on standard error: on a terminal one bar that is redrawn, with
// milestones above it; else a line for each milestone and a progress line now and then.
class WaitView {
 public:
  explicit WaitView(const Terminal& terminal) : terminal_(terminal) {}

  void show(const v1::Event& event);
  // A line of its own (a broken connection, Ctrl-C).
  void note(const std::string& text);
  // Takes the bar away.
  void finish();

 private:
  void clear_bar();
  void draw();

  const Terminal& terminal_;
  Progress progress_;
  bool bar_shown_ = false;
  SteadyTime last_drawn_{};
};

}  // namespace emoe::cli
