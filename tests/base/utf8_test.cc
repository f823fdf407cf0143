#include "base/utf8.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(Utf8, KnowsWhatIsWellFormed) {
  for (const char* good : {"", "a", "é", "中", "😀", "\xF4\x8F\xBF\xBF"}) EXPECT_TRUE(is_utf8(good));
  for (const char* bad : {"\x80", "\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xE4\xB8"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

TEST(Utf8, ReadsOneCharacter) {
  EXPECT_EQ(first_character("").bytes, 0u);
  EXPECT_EQ(first_character("\x80z").bytes, 0u);
  EXPECT_EQ(first_character("éz").bytes, 2u);
  EXPECT_EQ(first_character("éz").code, 0xE9u);
  EXPECT_EQ(first_character("🦙").code, 0x1F999u);
}

TEST(Utf8, ReplacesWhatIsNotUtf8AndCutsBetweenCharacters) {
  EXPECT_EQ(to_valid_utf8("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(to_valid_utf8("a\xff\xc3"), "a\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(to_valid_utf8("\xc3\xa9\x80z"), "\xc3\xa9\xef\xbf\xbdz");
  EXPECT_EQ(shorten_utf8("caf\xc3\xa9s", 4), "caf…");
  EXPECT_EQ(shorten_utf8("cafe", 4), "cafe");
}

}  // namespace
}  // namespace emoe
