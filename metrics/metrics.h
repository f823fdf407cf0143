#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emoe::metrics {

// The three kinds of Prometheus series we use. All methods are thread-safe and cheap enough for a
// step loop.
class Counter {
 public:
  virtual ~Counter() = default;
  virtual void increment(double by = 1.0) = 0;  // by >= 0
};

class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void set(double value) = 0;
};

class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void observe(double value) = 0;
};

using Labels = std::map<std::string, std::string>;

// Where series are made. A probe (one class per component, named *_probe) asks for its series once,
// in its constructor, and keeps the handles; asking again for the same name and labels gives the
// same series. A series lives until its last handle is destroyed: the series of a job disappear from
// /metrics with its probe. Names begin with "emoe_", counters end in "_total", units are base units
// (docs/METRICS.md lists all).
class Registry {
 public:
  virtual ~Registry() = default;
  [[nodiscard]] virtual std::shared_ptr<Counter> counter(const std::string& name,
                                                         const std::string& help,
                                                         const Labels& labels = {}) = 0;
  [[nodiscard]] virtual std::shared_ptr<Gauge> gauge(const std::string& name,
                                                     const std::string& help,
                                                     const Labels& labels = {}) = 0;
  // `upper_bounds`: ascending bucket limits, +Inf is implied.
  [[nodiscard]] virtual std::shared_ptr<Histogram> histogram(
      const std::string& name, const std::string& help, const std::vector<double>& upper_bounds,
      const Labels& labels = {}) = 0;
};

}  // namespace emoe::metrics
