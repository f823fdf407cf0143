#include "worker/train/step_mailbox.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// Sums the mailboxes of all ranks as the all-reduce does, in single precision.
std::vector<StepNote> exchange(const std::vector<StepNote>& notes) {
  std::vector<float> sum(notes.size() * kFloatsPerNote, 0.0F);
  for (size_t rank = 0; rank < notes.size(); ++rank) {
    std::vector<float> mine(sum.size(), 7.0F);  // stale: must be cleared
    write_note(mine, static_cast<int>(rank), notes[rank]);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += mine[i];
  }
  return read_notes(sum);
}

TEST(StepMailbox, DeliversLossesExactly) {
  const double losses[] = {0.1, 1.0 / 3.0, 4.123456789012345, -2e-9, 0.0, 1e20, 6.02e-12};
  std::vector<StepNote> notes;
  for (const double loss : losses) notes.push_back({.loss = loss});
  const auto received = exchange(notes);
  ASSERT_EQ(received.size(), std::size(losses));
  for (size_t i = 0; i < received.size(); ++i) EXPECT_EQ(received[i].loss, losses[i]);
}

TEST(StepMailbox, DeliversFlagsAndTensorNumbers) {
  const auto received = exchange({{.loss = 1.0, .bad_tensor = 0, .stop = StopRequest::stop},
                                  {.loss = 1.0, .stop = StopRequest::checkpoint_and_stop},
                                  {.loss = 1.0, .bad_tensor = 1'000'003}});
  EXPECT_EQ(received[0].bad_tensor, 0);
  EXPECT_EQ(received[0].stop, StopRequest::stop);
  EXPECT_EQ(received[1].bad_tensor, -1);
  EXPECT_EQ(received[1].stop, StopRequest::checkpoint_and_stop);
  EXPECT_EQ(received[2].bad_tensor, 1'000'003);
  EXPECT_EQ(received[2].stop, StopRequest::none);
}

TEST(StepMailbox, ANonFiniteLossStaysWithItsRank) {
  const auto received = exchange({{.loss = 1.0},
                                  {.loss = std::numeric_limits<double>::quiet_NaN()},
                                  {.loss = std::numeric_limits<double>::infinity()}});
  EXPECT_EQ(received[0].loss, 1.0);
  EXPECT_TRUE(std::isnan(received[1].loss));
  EXPECT_TRUE(std::isinf(received[2].loss));
}

}  // namespace
}  // namespace emoe::worker
