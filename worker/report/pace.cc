#include "worker/report/pace.h"

#include <algorithm>

namespace emoe::worker {

void Pace::add(const StepRecord& record) {
  recent_.push_back(record);
  if (recent_.size() > kWindow) recent_.pop_front();
}

double Pace::tokens_per_second() const {
  double tokens = 0.0;
  double seconds = 0.0;
  for (const StepRecord& record : recent_) {
    tokens += static_cast<double>(record.tokens);
    seconds += record.seconds;
  }
  return seconds > 0.0 ? tokens / seconds : 0.0;
}

double Pace::eta_seconds() const {
  if (recent_.empty()) return 0.0;
  double seconds = 0.0;
  for (const StepRecord& record : recent_) seconds += record.seconds;
  const auto left = std::max<int64_t>(steps_planned_ - recent_.back().step - 1, 0);
  return static_cast<double>(left) * seconds / static_cast<double>(recent_.size());
}

}  // namespace emoe::worker
