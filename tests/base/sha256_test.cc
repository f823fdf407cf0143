#include "base/sha256.h"

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

// FIPS 180-4 examples.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, Streams) {
  Sha256 hash;
  hash.update("a");
  hash.update("bc");
  EXPECT_EQ(hash.hex_digest(), sha256_hex("abc"));
}

TEST(Sha256, TellsHowFarAFileIs) {
  const testing::TempDir dir;
  const auto file = dir / "zeros";
  std::ofstream(file).close();
  constexpr size_t kSize = (64 << 20) + 1;
  std::filesystem::resize_file(file, kSize);
  int pieces = 0;
  const auto hash = sha256_of_file(file, [&pieces] { ++pieces; });
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(*hash, sha256_hex(std::string(kSize, '\0')));
  EXPECT_EQ(pieces, 2);
}

TEST(Sha256, OfARangeOfAFile) {
  testing::TempDir dir;
  std::string text(3'000'000, 'a');
  text += "bcd";
  ASSERT_TRUE(write_file_atomically(dir / "file", text).ok());
  EXPECT_EQ(sha256_of_range(dir / "file", 5, text.size() - 1).value(),
            sha256_hex(std::string_view(text).substr(5, text.size() - 6)));
  EXPECT_EQ(sha256_of_range(dir / "file", 0, text.size() + 1).status().code(),
            StatusCode::kDataLoss);
  EXPECT_EQ(sha256_of_range(dir / "none", 0, 1).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace emoe
