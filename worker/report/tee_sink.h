#pragma once

#include <utility>
#include <vector>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Hands everything to several sinks, in order. They outlive it.
class TeeSink final : public ProgressSink {
 public:
  explicit TeeSink(std::vector<ProgressSink*> sinks) : sinks_(std::move(sinks)) {}
  void on(const Event& event) override {
    for (ProgressSink* sink : sinks_) sink->on(event);
  }
  void before_checkpoint() override {
    for (ProgressSink* sink : sinks_) sink->before_checkpoint();
  }
  void on_work_done() override {
    for (ProgressSink* sink : sinks_) sink->on_work_done();
  }

 private:
  std::vector<ProgressSink*> sinks_;
};

}  // namespace emoe::worker
