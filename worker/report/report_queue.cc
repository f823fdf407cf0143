#include "worker/report/report_queue.h"

#include <utility>

namespace emoe::worker {

void ReportQueue::push(v1::Report report) {
  report.set_sequence(++last_sequence_);
  unacked_.push_back(std::move(report));
}

const v1::Report* ReportQueue::next() {
  return has_unsent() ? &unacked_[sent_++] : nullptr;
}

void ReportQueue::ack(int64_t sequence) {
  while (!unacked_.empty() && unacked_.front().sequence() <= sequence) {
    unacked_.pop_front();
    if (sent_ > 0) --sent_;
  }
}

}  // namespace emoe::worker
