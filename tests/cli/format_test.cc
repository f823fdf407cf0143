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
  EXPECT_EQ(ago(59), "59s ago");
  EXPECT_EQ(ago(180), "3m00s ago");
  EXPECT_EQ(ago(7'200), "2h00m ago");
  EXPECT_EQ(ago(4 * 86'400), "4d00h ago");
  EXPECT_EQ(relative_time({}, now), "-");
  EXPECT_EQ(age({}, now), "-");
}

TEST(Format, Numbers) {
  EXPECT_EQ(human_seconds(0.3472), "0.347s");
  EXPECT_EQ(human_seconds(5), "5s");
  EXPECT_EQ(human_seconds(9.999), "10s");
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
  EXPECT_EQ(printable_lines("a\tb\nc\rd\x1b[2J"), "a\tb\nc d [2J");
}

// A lead byte must not swallow the control character after it.
TEST(Format, BrokenUtf8HidesNothing) {
  EXPECT_EQ(printable("\xF0\x1b[2J"), "\uFFFD [2J");
  EXPECT_EQ(printable("\xE2\x82"), "\uFFFD\uFFFD");
  EXPECT_EQ(printable("\xC0\x9B"), "\uFFFD\uFFFD");  // ESC in too many bytes
  EXPECT_EQ(printable("a\xFF\x80z"), "a\uFFFD\uFFFDz");
}

TEST(Format, WrappingBreaksAtSpacesOnly) {
  using Lines = std::vector<std::string>;
  EXPECT_EQ(wrapped("one two three", 0), (Lines{"one two three"}));
  EXPECT_EQ(wrapped("one two three", 7), (Lines{"one two", "three"}));
  EXPECT_EQ(wrapped("in /a/very/long/path it is", 8), (Lines{"in", "/a/very/long/path", "it is"}));
  EXPECT_EQ(wrapped("", 5), (Lines{""}));
}

}  // namespace
}  // namespace emoe::cli
