#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
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

// Series of prometheus-cpp behind our interfaces.
class PrometheusCounter final : public Counter {
 public:
  explicit PrometheusCounter(::prometheus::Counter& series) : series_(series) {}
  void increment(double by) override { series_.Increment(by); }

 private:
  ::prometheus::Counter& series_;
};

class PrometheusGauge final : public Gauge {
 public:
  explicit PrometheusGauge(::prometheus::Gauge& series) : series_(series) {}
  void set(double value) override { series_.Set(value); }

 private:
  ::prometheus::Gauge& series_;
};

class PrometheusHistogram final : public Histogram {
 public:
  explicit PrometheusHistogram(::prometheus::Histogram& series) : series_(series) {}
  void observe(double value) override { series_.Observe(value); }

 private:
  ::prometheus::Histogram& series_;
};

}  // namespace

// prometheus-cpp never forgets a series by itself, so the handles are counted here and the last one
// removes it. The count is kept under the mutex instead of in a weak_ptr: a series asked for anew
// while its last handle is being destroyed must not be removed under the new handle.
struct PrometheusRegistry::State {
  std::mutex mutex;
  ::prometheus::Registry registry;
  std::map<SeriesKey, int> handles;

  // A handle on the series with these labels, made if it is not there; `bounds` of a histogram.
  template <typename Series, typename Builder, typename... Bounds>
  static std::shared_ptr<Series> handle(const std::shared_ptr<State>& state, Builder builder,
                                        const std::string& name, const std::string& help,
                                        const Labels& labels, const Bounds&... bounds) {
    const std::lock_guard lock(state->mutex);
    try {
      auto& family = builder.Name(name).Help(help).Register(state->registry);
      auto& series = family.Add(labels, bounds...);
      const SeriesKey key(name, labels);
      ++state->handles[key];
      return {new Series(series), [state, key, &family, &series](const Series* handle) {
                delete handle;
                const std::lock_guard guard(state->mutex);
                const auto found = state->handles.find(key);
                if (--found->second > 0) return;
                state->handles.erase(found);
                family.Remove(&series);
              }};
    } catch (const std::exception& error) {
      // A malformed name, or one name for two kinds of series.
      EMOE_CHECK(false, absl::StrCat("metric ", name, ": ", error.what()));
    }
    return nullptr;
  }
};

PrometheusRegistry::PrometheusRegistry() : state_(std::make_shared<State>()) {}
PrometheusRegistry::~PrometheusRegistry() = default;

std::shared_ptr<Counter> PrometheusRegistry::counter(const std::string& name,
                                                     const std::string& help,
                                                     const Labels& labels) {
  return State::handle<PrometheusCounter>(state_, ::prometheus::BuildCounter(), name, help, labels);
}

std::shared_ptr<Gauge> PrometheusRegistry::gauge(const std::string& name, const std::string& help,
                                                 const Labels& labels) {
  return State::handle<PrometheusGauge>(state_, ::prometheus::BuildGauge(), name, help, labels);
}

std::shared_ptr<Histogram> PrometheusRegistry::histogram(const std::string& name,
                                                         const std::string& help,
                                                         const std::vector<double>& upper_bounds,
                                                         const Labels& labels) {
  return State::handle<PrometheusHistogram>(state_, ::prometheus::BuildHistogram(), name, help,
                                            labels, upper_bounds);
}

std::string PrometheusRegistry::text() const {
  std::ostringstream out;
  ::prometheus::TextSerializer().Serialize(out, state_->registry.Collect());
  return out.str();
}

}  // namespace emoe::metrics
