#include "cli/format.h"

#include <cmath>

#include <gtest/gtest.h>

namespace emoe::cli {
namespace {

TEST(Format, RelativeTime) {
  const WallTime now(std::chrono::seconds(1'700'000'000));
  const auto ago = [&](int64_t seconds) {
    google::protobuf::Timestamp time;
    time.set_seconds(1'700'000'000 - seconds);
    return relative_time(time, now);
  };
  EXPECT_EQ(ago(0), "just now");
  EXPECT_EQ(ago(-30), "just now");  // clocks of two machines differ
  EXPECT_EQ(ago(59), "59 s ago");
  EXPECT_EQ(ago(180), "3 min ago");
  EXPECT_EQ(ago(7'200), "2 h ago");
  EXPECT_EQ(ago(4 * 86'400), "4 d ago");
  EXPECT_EQ(relative_time({}, now), "-");
}

TEST(Format, Numbers) {
  EXPECT_EQ(human_seconds(45.4), "45s");
  EXPECT_EQ(human_seconds(80), "1m20s");
  EXPECT_EQ(human_seconds(11'100), "3h05m");
  EXPECT_EQ(human_seconds(187'200), "2d04h");
  EXPECT_EQ(human_seconds(-1), "-");
  EXPECT_EQ(human_seconds(NAN), "-");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1'572'864), "1.5 MiB");
  EXPECT_EQ(human_count(850), "850");
  EXPECT_EQ(human_count(12'345), "12.3k");
  EXPECT_EQ(human_count(1'250'000), "1.25M");
  EXPECT_EQ(human_number(1.23456), "1.2346");
  EXPECT_EQ(human_number(2e-5), "2e-05");
  EXPECT_EQ(human_number(0), "0");
  EXPECT_EQ(human_number(NAN), "nan");
}

TEST(Format, WidthCountsColumnsNotBytes) {
  EXPECT_EQ(display_width("größe"), 5);
  EXPECT_EQ(display_width("模型"), 4);
  EXPECT_EQ(display_width("🦙"), 2);
  EXPECT_EQ(display_width("e\xCC\x81"), 1);  // e and a combining acute
}

TEST(Format, ShorteningKeepsBothEndsAndTheWidth) {
  EXPECT_EQ(shorten_middle("abcdefghij", 10), "abcdefghij");
  EXPECT_EQ(shorten_middle("abcdefghij", 7), "abc…hij");
  EXPECT_EQ(shorten_end("abcdefghij", 4), "abc…");
  for (int width = 0; width < 12; ++width) {
    EXPECT_LE(display_width(shorten_middle("模型a模型b模型", width)), width);
    EXPECT_LE(display_width(shorten_end("模型a模型b模型", width)), width);
  }
}

TEST(Format, TextOfOthersCannotMoveTheCursor) {
  EXPECT_EQ(printable("a\x1b[2Jb\nc\rd"), "a [2Jb c d");
  EXPECT_EQ(printable("größe"), "größe");
}

}  // namespace
}  // namespace emoe::cli
