#include "worker/report/report_queue.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

v1::Report step(int64_t number) {
  v1::Report report;
  report.mutable_step()->mutable_metrics()->set_step(number);
  return report;
}

TEST(ReportQueue, NumbersFromOneAndForgetsWhatIsAcked) {
  ReportQueue queue;
  EXPECT_EQ(queue.next(), nullptr);
  for (int64_t i = 0; i < 3; ++i) queue.push(step(i));
  EXPECT_EQ(queue.next()->sequence(), 1);
  EXPECT_EQ(queue.next()->sequence(), 2);
  queue.ack(1);
  EXPECT_EQ(queue.unacked().front().sequence(), 2);
  EXPECT_EQ(queue.next()->sequence(), 3);
  EXPECT_EQ(queue.next(), nullptr);
  queue.ack(3);
  EXPECT_TRUE(queue.empty());
  queue.push(step(3));
  EXPECT_EQ(queue.next()->sequence(), 4);
}

TEST(ReportQueue, ANewConnectionGetsWhatIsNotStored) {
  ReportQueue queue;
  for (int64_t i = 0; i < 4; ++i) queue.push(step(i));
  (void)queue.next();
  (void)queue.next();
  (void)queue.next();
  queue.ack(2);  // the welcome: two of the three written were stored
  queue.rewind();
  EXPECT_EQ(queue.next()->sequence(), 3);
  EXPECT_EQ(queue.next()->sequence(), 4);
  queue.ack(2);  // an ack that comes late changes nothing
  EXPECT_EQ(queue.next(), nullptr);
  EXPECT_FALSE(queue.empty());
}

}  // namespace
}  // namespace emoe::worker
