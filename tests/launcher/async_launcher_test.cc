#include "launcher/async_launcher.h"

#include <csignal>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "tests/launcher/fake_launcher.h"

namespace emoe::launcher {
namespace {

using Calls = std::vector<std::string>;

// A FakeLauncher that writes down every call and may refuse to answer; `during_*` run inside a call,
// as what comes from another thread meanwhile.
class ScriptedLauncher final : public Launcher {
 public:
  [[nodiscard]] LaunchHandle handle_of(const std::string& job_id, int attempt,
                                       const std::filesystem::path&) const override {
    return FakeLauncher::handle_of(job_id, attempt);
  }
  [[nodiscard]] Result<LaunchHandle> launch(const LaunchRequest& request) override {
    calls.push_back("launch " + request.job_id);
    during_launch();
    return fake.launch(request);
  }
  [[nodiscard]] Result<AttemptStatus> poll(const LaunchHandle& handle) override {
    calls.push_back("poll " + handle.text);
    during_poll();
    if (!silent.ok()) return silent;
    return fake.poll(handle);
  }
  [[nodiscard]] Status stop(const LaunchHandle& handle, StopMode mode) override {
    calls.push_back(absl::StrCat(mode == StopMode::kill ? "kill " : "stop ", handle.text));
    if (!silent.ok()) return silent;
    return fake.stop(handle, mode);
  }
  [[nodiscard]] Result<LogTail> log(const LaunchHandle& handle, size_t bytes) override {
    return fake.log(handle, bytes);
  }
  [[nodiscard]] std::string name() const override { return "scripted"; }

  FakeLauncher fake;
  Calls calls;
  Status silent;
  std::function<void()> during_launch = [] {};
  std::function<void()> during_poll = [] {};
};

class AsyncLauncherTest : public ::testing::Test {
 protected:
  void launch(const std::string& job) {
    LaunchRequest request;
    request.job_id = job;
    launcher_.launch(handle(job), request, [this] { return prepared_; });
  }
  static LaunchHandle handle(const std::string& job) { return FakeLauncher::handle_of(job, 1); }
  // The calls of one pass.
  Calls work() {
    engine_.calls.clear();
    launcher_.work();
    return engine_.calls;
  }
  // The code of the last answer, or the phase.
  std::string known(const std::string& job) {
    const auto view = launcher_.view(handle(job));
    if (!view) return "unknown here";
    if (!view->status) return "no answer yet";
    if (!view->status->ok()) return absl::StatusCodeToString(view->status->status().code());
    return (*view->status)->phase == AttemptPhase::ended ? "ended" : "running";
  }

  ScriptedLauncher engine_;
  AsyncLauncher launcher_{engine_, {}};
  Status prepared_;
};

TEST_F(AsyncLauncherTest, LaunchesWhatTheEngineDoesNotKnow) {
  EXPECT_EQ(known("a"), "unknown here");
  launch("a");
  EXPECT_EQ(known("a"), "no answer yet");
  EXPECT_EQ(work(), (Calls{"poll fake:a/1", "launch a"}));
  EXPECT_EQ(known("a"), "running");
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});
  engine_.fake.end("a", 1, {.exit_code = 3});
  work();
  EXPECT_EQ(known("a"), "ended");
  launcher_.forget(handle("a"));
  EXPECT_EQ(known("a"), "unknown here");
  EXPECT_EQ(work(), Calls{});
}

TEST_F(AsyncLauncherTest, LaunchesNothingThatTheEngineKnows) {
  LaunchRequest request;
  request.job_id = "a";
  ASSERT_TRUE(engine_.fake.launch(request).ok());  // by a coordinator that was killed
  launch("a");
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});
  engine_.fake.forget("a", 1);
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});  // nor later
  EXPECT_EQ(known("a"), "NOT_FOUND");
}

TEST_F(AsyncLauncherTest, LaunchesNothingUntilTheEngineCanTell) {
  engine_.silent = absl::UnavailableError("no answer");
  launch("a");
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});
  EXPECT_EQ(known("a"), "UNAVAILABLE");
  engine_.silent = ok_status();
  EXPECT_EQ(work(), (Calls{"poll fake:a/1", "launch a"}));
}

TEST_F(AsyncLauncherTest, AFailedLaunchIsToldWithWhatIsLeftOfIt) {
  engine_.fake.fail_launches(absl::ResourceExhaustedError("no node"));
  launch("a");
  EXPECT_EQ(work(), (Calls{"poll fake:a/1", "launch a", "poll fake:a/1"}));
  EXPECT_EQ(known("a"), "NOT_FOUND");
  EXPECT_EQ(launcher_.view(handle("a"))->launch.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});  // not tried again
  engine_.fake.fail_launches(absl::InternalError("the answer was lost"), true);
  launch("b");
  work();
  EXPECT_EQ(known("b"), "running");
  EXPECT_EQ(launcher_.view(handle("b"))->launch.code(), StatusCode::kInternal);
  prepared_ = absl::ResourceExhaustedError("disk full");
  launch("c");
  work();
  EXPECT_EQ(launcher_.view(handle("c"))->launch, absl::DataLossError("disk full"));
  EXPECT_EQ(engine_.fake.launches().size(), 1U);
}

TEST_F(AsyncLauncherTest, AStopBeforeTheLaunchWithdrawsIt) {
  launch("a");
  launcher_.stop(handle("a"), StopMode::graceful);
  EXPECT_EQ(work(), (Calls{"stop fake:a/1", "poll fake:a/1"}));
  EXPECT_EQ(known("a"), "NOT_FOUND");
  launch("b");
  engine_.during_poll = [&] { launcher_.stop(handle("b"), StopMode::graceful); };
  work();
  EXPECT_EQ(known("b"), "NOT_FOUND");
  EXPECT_TRUE(engine_.fake.launches().empty());
}

TEST_F(AsyncLauncherTest, AStopDuringTheLaunchComesAfterIt) {
  engine_.during_launch = [&] { launcher_.stop(handle("a"), StopMode::kill); };
  launch("a");
  EXPECT_EQ(work(), (Calls{"poll fake:a/1", "launch a", "kill fake:a/1", "poll fake:a/1"}));
  EXPECT_EQ(known("a"), "ended");
}

TEST_F(AsyncLauncherTest, AStopIsRepeatedUntilTheEngineHasTakenIt) {
  launch("a");
  work();
  engine_.silent = absl::UnavailableError("no answer");
  launcher_.stop(handle("a"), StopMode::graceful);
  EXPECT_EQ(work(), (Calls{"stop fake:a/1", "poll fake:a/1"}));
  EXPECT_EQ(launcher_.view(handle("a"))->stop.code(), StatusCode::kUnavailable);
  launcher_.stop(handle("a"), StopMode::kill);
  launcher_.stop(handle("a"), StopMode::graceful);  // no way back
  EXPECT_EQ(work(), (Calls{"kill fake:a/1", "poll fake:a/1"}));
  engine_.silent = ok_status();
  EXPECT_EQ(work(), (Calls{"kill fake:a/1", "poll fake:a/1"}));
  EXPECT_TRUE(launcher_.view(handle("a"))->stop.ok());
  EXPECT_EQ(work(), Calls{"poll fake:a/1"});
}

TEST_F(AsyncLauncherTest, AStopOvertakesThePolls) {
  for (const char* job : {"a", "b", "c"}) launch(job);
  work();
  bool first = true;
  engine_.during_poll = [&] {  // as "a" is asked about
    if (std::exchange(first, false)) launcher_.stop(handle("c"), StopMode::kill);
  };
  EXPECT_EQ(work(), (Calls{"poll fake:a/1", "kill fake:c/1", "poll fake:c/1", "poll fake:b/1"}));
}

TEST_F(AsyncLauncherTest, AnAttemptThatCannotBeKilledHoldsUpNobody) {
  for (const char* job : {"a", "b"}) launch(job);
  work();
  engine_.fake.survive_kill(true);
  engine_.during_poll = [&] { launcher_.stop(handle("a"), StopMode::kill); };
  work();  // from here on a kill of "a" is wanted at any time
  EXPECT_EQ(work(), (Calls{"kill fake:a/1", "poll fake:a/1", "poll fake:b/1"}));
}

TEST_F(AsyncLauncherTest, TellsWhenThereIsSomethingNew) {
  int news = 0;
  launcher_.set_listener([&] { ++news; });
  launch("a");
  work();
  EXPECT_EQ(news, 1);
  work();
  EXPECT_EQ(news, 1);
  engine_.fake.end("a", 1, {});
  work();
  EXPECT_EQ(news, 2);
}

}  // namespace
}  // namespace emoe::launcher
