#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metrics/metrics.h"

namespace emoe::metrics {

// A Registry for tests: keeps plain numbers and lets them be read. Series live as long as their
// handles, as the interface promises. Thread-safe.
class FakeRegistry final : public Registry {
 public:
  FakeRegistry();
  ~FakeRegistry() override;
  [[nodiscard]] std::shared_ptr<Counter> counter(const std::string& name, const std::string& help,
                                                 const Labels& labels = {}) override;
  [[nodiscard]] std::shared_ptr<Gauge> gauge(const std::string& name, const std::string& help,
                                             const Labels& labels = {}) override;
  [[nodiscard]] std::shared_ptr<Histogram> histogram(const std::string& name,
                                                     const std::string& help,
                                                     const std::vector<double>& upper_bounds,
                                                     const Labels& labels = {}) override;

  // Value of a counter or gauge; nothing when no such series is alive.
  [[nodiscard]] std::optional<double> value(const std::string& name,
                                            const Labels& labels = {}) const;
  // What a histogram observed, in order; empty when no such series is alive.
  [[nodiscard]] std::vector<double> observations(const std::string& name,
                                                 const Labels& labels = {}) const;
  // Names of the series alive, ascending, each once.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace emoe::metrics
