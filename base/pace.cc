#include "base/pace.h"

#include <algorithm>

namespace emoe {

void Pace::add(int64_t step, int64_t tokens, double seconds) {
  constexpr size_t kWindow = 20;
  while (!recent_.empty() && recent_.back().step >= step) recent_.pop_back();
  recent_.push_back({step, tokens, seconds});
  if (recent_.size() > kWindow) recent_.pop_front();
}

double Pace::seconds() const {
  double sum = 0.0;
  for (const Step& step : recent_) sum += step.seconds;
  return sum;
}

double Pace::tokens_per_second() const {
  double tokens = 0.0;
  for (const Step& step : recent_) tokens += static_cast<double>(step.tokens);
  return seconds() > 0.0 ? tokens / seconds() : 0.0;
}

double Pace::eta_seconds(int64_t steps_planned) const {
  if (recent_.empty()) return 0.0;
  const auto left = std::max<int64_t>(steps_planned - recent_.back().step - 1, 0);
  return static_cast<double>(left) * seconds() / static_cast<double>(recent_.size());
}

}  // namespace emoe
