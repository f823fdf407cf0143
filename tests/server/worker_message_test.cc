#include <gtest/gtest.h>

#include "server/rpc/worker_control_handler.h"

namespace emoe::server {
namespace {

TEST(WorkerMessage, AHeartbeatIsTakenFieldByField) {
  v1::WorkerMessage message;
  v1::RankHeartbeat& beat = *message.mutable_heartbeat();
  beat.set_step(1);
  beat.set_phase("comm");
  beat.set_comm_sequence(2);
  beat.set_comm_completed(3);
  beat.set_comm_op("all_reduce");
  beat.set_host_rss_bytes(4);
  beat.set_seconds_in_phase(0.5);
  beat.set_work_done(6);
  const auto parsed = from_wire(message);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& pulse = std::get<RankPulse>(*parsed);
  EXPECT_EQ(pulse.step, 1);
  EXPECT_EQ(pulse.phase, "comm");
  EXPECT_EQ(pulse.comm_sequence, 2);
  EXPECT_EQ(pulse.comm_completed, 3);
  EXPECT_EQ(pulse.comm_op, "all_reduce");
  EXPECT_EQ(pulse.host_rss_bytes, 4);
  EXPECT_EQ(pulse.seconds_in_phase, 0.5);
  EXPECT_EQ(pulse.work_done, 6);
}

TEST(WorkerMessage, WithoutContentIsRefused) {
  EXPECT_EQ(from_wire({}).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace emoe::server
