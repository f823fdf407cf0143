// An engine that takes seconds to answer delays nobody but the attempts it has.
#include <algorithm>
#include <functional>
#include <iostream>
#include <thread>

#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

// Each call that asks the engine takes `delay`.
class SlowLauncher final : public launcher::Launcher {
 public:
  SlowLauncher(Launcher& engine, std::chrono::milliseconds delay)
      : engine_(engine), delay_(delay) {}
  [[nodiscard]] launcher::LaunchHandle handle_of(const std::string& job_id, int attempt,
                                                 const std::filesystem::path& dir) const override {
    return engine_.handle_of(job_id, attempt, dir);
  }
  [[nodiscard]] Result<launcher::LaunchHandle> launch(
      const launcher::LaunchRequest& request) override {
    std::this_thread::sleep_for(delay_);
    return engine_.launch(request);
  }
  [[nodiscard]] Result<launcher::AttemptStatus> poll(
      const launcher::LaunchHandle& handle) override {
    std::this_thread::sleep_for(delay_);
    return engine_.poll(handle);
  }
  [[nodiscard]] Status stop(const launcher::LaunchHandle& handle,
                            launcher::StopMode mode) override {
    std::this_thread::sleep_for(delay_);
    return engine_.stop(handle, mode);
  }
  [[nodiscard]] Result<launcher::LogTail> log(const launcher::LaunchHandle& handle,
                                              size_t bytes) override {
    std::this_thread::sleep_for(delay_);
    return engine_.log(handle, bytes);
  }
  [[nodiscard]] std::string name() const override { return "slow"; }

 private:
  Launcher& engine_;
  const std::chrono::milliseconds delay_;
};

class SlowEngineTest : public RpcTest {
 protected:
  SlowEngineTest() { config_.capacity.cpus = 1; }
  launcher::Launcher& real_launcher() override { return slow_; }

  // The 99th percentile of GetJob, in ms, asked again and again until `enough`.
  double percentile(const std::string& id, const std::function<bool()>& enough) {
    std::vector<double> times;
    do {
      const auto begin = std::chrono::steady_clock::now();
      EXPECT_EQ(get(id).id(), id);
      const auto taken = std::chrono::steady_clock::now() - begin;
      times.push_back(std::chrono::duration<double, std::milli>(taken).count());
      std::this_thread::sleep_for(1ms);
    } while (!enough());
    const auto place = times.begin() + static_cast<int64_t>(times.size() * 99 / 100);
    std::nth_element(times.begin(), place, times.end());
    longest_ = std::max(longest_, *std::max_element(place, times.end()));
    return *place;
  }

  SlowLauncher slow_{launcher_, 5s};
  double longest_ = 0;
};

TEST_F(SlowEngineTest, CallsDoNotWaitForTheEngine) {
  const std::string running = submit();  // launched, polled and cancelled
  const std::string waiting = submit();  // asked about; calls about what waits take the lock
  bool cancelled = false;
  const double busy = percentile(waiting, [&] {
    if (!cancelled && !launcher_.launches().empty()) {
      cancelled = true;
      cancel(running);
    }
    return !launcher_.stops().empty();
  });
  EXPECT_TRUE(cancelled);
  cancel(waiting);
  EXPECT_EQ(wait_for_end(running), v1::CANCELLED);
  const auto end = std::chrono::steady_clock::now() + 3s;  // the engine has nothing to do
  const double idle = percentile(waiting, [&] { return std::chrono::steady_clock::now() > end; });
  std::cout << "GetJob p99: " << busy << " ms; without attempts " << idle << " ms\n";
  // Where the machine has other work, calls take longer at any time.
  EXPECT_LT(busy, std::max(20.0, 4 * idle));
  EXPECT_LT(longest_, 2500) << "a call waited for the engine's answer";
}

}  // namespace
}  // namespace emoe::server
