#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// For tests (environment EMOE_TEST_HOLD=FOLDER): parks the step loop as long as a file is in the
// folder. "step-25": when 25 optimiser steps are done, before the evaluation and the checkpoint due
// then; "export", or another phase by its to_string(): when the rank enters it. It knows steps and
// phases only, so it need not visit every event.
class HoldSink final : public ProgressSink {
 public:
  explicit HoldSink(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void on(const Event& event) override {
    if (const auto* step = std::get_if<StepRecord>(&event)) {
      wait("step-" + std::to_string(step->step + 1));
    } else if (const auto* phase = std::get_if<Phase>(&event)) {
      wait(to_string(*phase));
    }
  }
  void before_checkpoint() override {}
  void on_work_done() override {}

 private:
  void wait(const std::string& point) const {
    std::error_code error;  // an unreadable folder holds nothing
    while (std::filesystem::exists(folder_ / point, error)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  std::filesystem::path folder_;
};

}  // namespace emoe::worker
