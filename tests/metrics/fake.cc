#include "tests/metrics/fake.h"

#include <mutex>
#include <utility>

#include "base/check.h"

namespace emoe::metrics {
namespace {

// One series of any kind; whoever uses it as another kind than it was made is told by names in the
// test.
class FakeSeries final : public Counter, public Gauge, public Histogram {
 public:
  void increment(double by) override {
    EMOE_CHECK(by >= 0, "a counter never falls");
    const std::lock_guard lock(mutex_);
    value_ += by;
  }
  void set(double value) override {
    const std::lock_guard lock(mutex_);
    value_ = value;
  }
  void observe(double value) override {
    const std::lock_guard lock(mutex_);
    observations_.push_back(value);
  }
  [[nodiscard]] double value() const {
    const std::lock_guard lock(mutex_);
    return value_;
  }
  [[nodiscard]] std::vector<double> observations() const {
    const std::lock_guard lock(mutex_);
    return observations_;
  }

 private:
  mutable std::mutex mutex_;
  double value_ = 0.0;
  std::vector<double> observations_;
};

}  // namespace

struct FakeRegistry::State {
  std::mutex mutex;
  std::map<std::pair<std::string, Labels>, std::weak_ptr<FakeSeries>> series;

  std::shared_ptr<FakeSeries> get(const std::string& name, const Labels& labels) {
    const std::lock_guard lock(mutex);
    auto& slot = series[{name, labels}];
    auto found = slot.lock();
    if (!found) slot = found = std::make_shared<FakeSeries>();
    return found;
  }
  std::shared_ptr<FakeSeries> find(const std::string& name, const Labels& labels) {
    const std::lock_guard lock(mutex);
    const auto found = series.find({name, labels});
    return found == series.end() ? nullptr : found->second.lock();
  }
};

FakeRegistry::FakeRegistry() : state_(std::make_shared<State>()) {}
FakeRegistry::~FakeRegistry() = default;

std::shared_ptr<Counter> FakeRegistry::counter(const std::string& name, const std::string& /*help*/,
                                               const Labels& labels) {
  EMOE_CHECK(name.ends_with("_total"), name);
  return state_->get(name, labels);
}

std::shared_ptr<Gauge> FakeRegistry::gauge(const std::string& name, const std::string& /*help*/,
                                           const Labels& labels) {
  EMOE_CHECK(!name.ends_with("_total"), name);
  return state_->get(name, labels);
}

std::shared_ptr<Histogram> FakeRegistry::histogram(const std::string& name,
                                                   const std::string& /*help*/,
                                                   const std::vector<double>& /*upper_bounds*/,
                                                   const Labels& labels) {
  return state_->get(name, labels);
}

std::optional<double> FakeRegistry::value(const std::string& name, const Labels& labels) const {
  const auto found = state_->find(name, labels);
  if (!found) return std::nullopt;
  return found->value();
}

std::vector<double> FakeRegistry::observations(const std::string& name,
                                               const Labels& labels) const {
  const auto found = state_->find(name, labels);
  return found ? found->observations() : std::vector<double>();
}

std::vector<std::string> FakeRegistry::names() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<std::string> result;
  for (const auto& [key, series] : state_->series) {
    if (series.expired() || (!result.empty() && result.back() == key.first)) continue;
    result.push_back(key.first);
  }
  return result;
}

}  // namespace emoe::metrics
