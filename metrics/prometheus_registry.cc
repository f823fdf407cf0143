#include <exception>
#include <map>
#include <mutex>
#include <sstream>
#include <tuple>
#include <utility>

#include <absl/strings/str_cat.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "base/check.h"
#include "metrics/prometheus.h"

namespace emoe::metrics {
namespace {

using SeriesKey = std::pair<std::string, Labels>;

}  // namespace

// prometheus-cpp never forgets a series by itself, so the handles are counted here and the last one
// removes it. The count is kept under the mutex instead of in a weak_ptr: a series asked for anew
// while its last handle is being destroyed must not be removed under the new handle.
struct PrometheusRegistry::State {
  std::mutex mutex;
  ::prometheus::Registry registry;
  std::map<SeriesKey, int> handles;
};

namespace {

// A handle on one series of the prometheus-cpp type `Metric`.
template <typename Metric, typename State>
class Handle {
 public:
  // `make(family, labels)` adds the series to its family, or finds it there.
  template <typename Builder, typename Make>
  Handle(std::shared_ptr<State> state, Builder builder, const std::string& name,
         const std::string& help, const Labels& labels, const Make& make)
      : state_(std::move(state)), key_(name, labels) {
    const std::lock_guard lock(state_->mutex);
    try {
      family_ = &builder.Name(name).Help(help).Register(state_->registry);
      metric_ = &make(*family_);
    } catch (const std::exception& error) {
      // A malformed name, or one name for two kinds of series.
      EMOE_CHECK(false, absl::StrCat("metric ", name, ": ", error.what()));
    }
    ++state_->handles[key_];
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->handles.find(key_);
    if (--found->second > 0) return;
    state_->handles.erase(found);
    family_->Remove(metric_);
  }

  [[nodiscard]] Metric& metric() { return *metric_; }

 private:
  std::shared_ptr<State> state_;
  SeriesKey key_;
  ::prometheus::Family<Metric>* family_ = nullptr;
  Metric* metric_ = nullptr;
};

template <typename State>
class PrometheusCounter final : public Counter {
 public:
  template <typename... Args>
  explicit PrometheusCounter(Args&&... args) : handle_(std::forward<Args>(args)...) {}
  void increment(double by) override { handle_.metric().Increment(by); }

 private:
  Handle<::prometheus::Counter, State> handle_;
};

template <typename State>
class PrometheusGauge final : public Gauge {
 public:
  template <typename... Args>
  explicit PrometheusGauge(Args&&... args) : handle_(std::forward<Args>(args)...) {}
  void set(double value) override { handle_.metric().Set(value); }

 private:
  Handle<::prometheus::Gauge, State> handle_;
};

template <typename State>
class PrometheusHistogram final : public Histogram {
 public:
  template <typename... Args>
  explicit PrometheusHistogram(Args&&... args) : handle_(std::forward<Args>(args)...) {}
  void observe(double value) override { handle_.metric().Observe(value); }

 private:
  Handle<::prometheus::Histogram, State> handle_;
};

}  // namespace

PrometheusRegistry::PrometheusRegistry() : state_(std::make_shared<State>()) {}
PrometheusRegistry::~PrometheusRegistry() = default;

std::shared_ptr<Counter> PrometheusRegistry::counter(const std::string& name,
                                                     const std::string& help,
                                                     const Labels& labels) {
  return std::make_shared<PrometheusCounter<State>>(
      state_, ::prometheus::BuildCounter(), name, help,
      labels, [&](auto& family) -> auto& { return family.Add(labels); });
}

std::shared_ptr<Gauge> PrometheusRegistry::gauge(const std::string& name, const std::string& help,
                                                 const Labels& labels) {
  return std::make_shared<PrometheusGauge<State>>(
      state_, ::prometheus::BuildGauge(), name, help,
      labels, [&](auto& family) -> auto& { return family.Add(labels); });
}

std::shared_ptr<Histogram> PrometheusRegistry::histogram(const std::string& name,
                                                         const std::string& help,
                                                         const std::vector<double>& upper_bounds,
                                                         const Labels& labels) {
  return std::make_shared<PrometheusHistogram<State>>(
      state_, ::prometheus::BuildHistogram(), name, help,
      labels, [&](auto& family) -> auto& { return family.Add(labels, upper_bounds); });
}

std::string PrometheusRegistry::text() const {
  std::ostringstream out;
  ::prometheus::TextSerializer().Serialize(out, state_->registry.Collect());
  return out.str();
}

}  // namespace emoe::metrics
