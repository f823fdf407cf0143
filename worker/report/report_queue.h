#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "emoe/v1/worker_control_service.pb.h"

namespace emoe::worker {

// The reports of one rank and attempt that the coordinator has not stored yet. Sequence numbers
// begin at 1 and have no gaps; whatever connection breaks, each report arrives exactly once,
// because this side keeps it until it is acked and the other side ignores what it has. Nothing is
// ever dropped: a step report is some 200 bytes. Not thread-safe.
class ReportQueue {
 public:
  // Gives the report its number.
  void push(v1::Report report) {
    report.set_sequence(++last_sequence_);
    unacked_.push_back(std::move(report));
  }
  // The next report to write on this connection, or nullptr; valid until the next call.
  [[nodiscard]] const v1::Report* next() {
    return sent_ < unacked_.size() ? &unacked_[sent_++] : nullptr;
  }
  // All reports up to `sequence` are stored on the other side.
  void ack(int64_t sequence) {
    while (!unacked_.empty() && unacked_.front().sequence() <= sequence) {
      unacked_.pop_front();
      if (sent_ > 0) --sent_;
    }
  }
  // A new connection: what is not stored is to be written again.
  void rewind() { sent_ = 0; }

  [[nodiscard]] bool empty() const { return unacked_.empty(); }
  // In the order of their numbers.
  [[nodiscard]] const std::deque<v1::Report>& unacked() const { return unacked_; }

 private:
  std::deque<v1::Report> unacked_;
  size_t sent_ = 0;  // of unacked_, on this connection
  int64_t last_sequence_ = 0;
};

}  // namespace emoe::worker
