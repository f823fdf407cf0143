#include "base/background_hash.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace emoe {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(BackgroundHash, equals_the_hash_of_all_pieces_in_order) {
  std::string all;
  BackgroundHash hash;
  for (size_t i = 0; i < 300; ++i) {
    const auto piece = std::make_shared<const std::string>(i * 37 % 5000, static_cast<char>(i));
    all += *piece;
    hash.add(bytes_of(*piece), piece);
  }
  EXPECT_EQ(hash.finish(), sha256_hex(all));
  EXPECT_EQ(BackgroundHash().finish(), sha256_hex(""));
}

// What it holds on to has a bound, and larger pieces than that pass.
TEST(BackgroundHash, holds_no_more_than_it_may) {
  const std::string large(BackgroundHash::kMostWaiting + 1, 'x');
  const std::string half(BackgroundHash::kMostWaiting / 2, 'y');
  std::vector<std::weak_ptr<const std::string>> owners;
  BackgroundHash hash;
  const auto add = [&](const std::string& text) {
    const auto owner = std::make_shared<const std::string>(text);
    owners.push_back(owner);
    hash.add(bytes_of(*owner), owner);
  };
  size_t most = 0;
  std::string all;
  for (const std::string& text : {large, half, half, half, large, half}) {
    add(text);
    all += text;
    size_t held = 0;
    for (const auto& owner : owners) {
      if (const auto alive = owner.lock()) held += alive->size();
    }
    most = std::max(most, held);
  }
  EXPECT_LE(most, large.size());
  EXPECT_EQ(hash.finish(), sha256_hex(all));
  for (const auto& owner : owners) EXPECT_TRUE(owner.expired());
}

TEST(BackgroundHash, can_be_given_up) {
  const std::string text(1 << 20, 'z');
  BackgroundHash hash;
  for (int i = 0; i < 50; ++i) hash.add(bytes_of(text), nullptr);
}

}  // namespace
}  // namespace emoe
