#include "worker/report/stop_sources.h"

#include <gtest/gtest.h>
#include <pthread.h>

namespace emoe::worker {
namespace {

class Scripted final : public StopSource {
 public:
  explicit Scripted(StopRequest request) : request_(request) {}
  StopRequest poll() override { return std::exchange(request_, StopRequest::none); }

 private:
  StopRequest request_;
};

TEST(SignalStopSource, TermAndUser1AskForACheckpointAndStay) {
  for (const int signal : {SIGTERM, SIGUSR1}) {
    SignalStopSource source(SignalStopSource::Interrupt::leave_alone);
    EXPECT_EQ(source.poll(), StopRequest::none);
    ::raise(signal);
    EXPECT_EQ(source.poll(), StopRequest::checkpoint_and_stop);
    EXPECT_EQ(source.poll(), StopRequest::checkpoint_and_stop);
  }
}

TEST(SignalStopSource, ASignalThatCameWhileBlockedIsNotLost) {
  sigset_t user1;
  sigemptyset(&user1);
  sigaddset(&user1, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &user1, nullptr);
  ::raise(SIGUSR1);
  {
    SignalStopSource source(SignalStopSource::Interrupt::leave_alone);
    EXPECT_EQ(source.poll(), StopRequest::checkpoint_and_stop);
  }
  ::pthread_sigmask(SIG_UNBLOCK, &user1, nullptr);
}

TEST(SignalStopSource, InterruptAsksForACheckpointAndTheSecondOneEndsTheProcess) {
  SignalStopSource source(SignalStopSource::Interrupt::checkpoint_and_stop);
  ::raise(SIGINT);
  EXPECT_EQ(source.poll(), StopRequest::checkpoint_and_stop);
  struct sigaction now {};
  ::sigaction(SIGINT, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

TEST(SignalStopSource, PutsBackWhatWas) {
  struct sigaction before {};
  ::sigaction(SIGTERM, nullptr, &before);
  { const SignalStopSource source(SignalStopSource::Interrupt::checkpoint_and_stop); }
  struct sigaction after {};
  ::sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(after.sa_handler, before.sa_handler);
}

TEST(CombinedStopSource, TheStrongestWins) {
  Scripted none(StopRequest::none);
  Scripted both(StopRequest::checkpoint_and_stop);
  Scripted stop(StopRequest::stop);
  EXPECT_EQ(CombinedStopSource({}).poll(), StopRequest::none);
  CombinedStopSource mild({&none, &both});
  EXPECT_EQ(mild.poll(), StopRequest::checkpoint_and_stop);
  EXPECT_EQ(mild.poll(), StopRequest::none);  // asks its sources each time
  Scripted again(StopRequest::checkpoint_and_stop);
  CombinedStopSource strong({&again, &stop, &none});
  EXPECT_EQ(strong.poll(), StopRequest::stop);
}

}  // namespace
}  // namespace emoe::worker
