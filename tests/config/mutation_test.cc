// Damaged files must give violations with a place, never a crash: a fixed number of seeded random
// mutations of a file that uses every kind of field.
#include <random>

#include "base/file.h"
#include "tests/config/support.h"

namespace emoe::config {
namespace {

constexpr char kSeed[] = R"(name: base
model: {path: /m, dtype: float32}
data:
  train: &t /d.json   # comment
  eval: *t
  fraction: 0.5
lora: {targets: [q_proj, "v_proj"]}
emoe:
  experts: 8
  top_k: 2
  layers: {list: [0, 2]}
optimizer: {learning_rate: 1.0e-4, schedule: 'cosine'}
train: {epochs: 0x3, seed: -7}
resources: {max_runtime: 1h30m}
labels: {team: research, "a b": "c\td"}
)";

std::string mutate(std::string text, std::mt19937& random) {
  static const std::string kPieces[] = {": ",  "{",   "}",      "[",  "]", "\n", "  ",    "- ",
                                        "&a ", "*a ", "!!int ", "\"", "'", "#",  "\xff",  "\t",
                                        "|\n", ">",   "? ",     "~",  "0", "e",  "---\n", "%",
                                        "<<",  "\\",  ",",      "é",  "@", "`"};
  const int count = 1 + static_cast<int>(random() % 4);
  for (int i = 0; i < count; ++i) {
    const size_t at = random() % (text.size() + 1);
    switch (random() % 4) {
      case 0:
        text.insert(at, kPieces[random() % std::size(kPieces)]);
        break;
      case 1:
        text.erase(at, 1 + random() % 6);
        break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(random() % 256);
        break;
      default:
        text.insert(at, text.substr(random() % (text.size() + 1), random() % 30));
    }
  }
  return text;
}

TEST(Mutation, NeverCrashesAndAlwaysNamesAPlace) {
  std::mt19937 random(20260131);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string text = mutate(kSeed, random);
    Diagnostics diagnostics;
    const auto job = parse_job(text, "job.yaml", {}, diagnostics);
    const bool readable = diagnostics.empty();
    const auto resolved = resolve(job.spec);
    validate(resolved, job.locations, diagnostics);
    if (readable) {
      ++accepted;
      ASSERT_TRUE(read_job(message_to_yaml(resolved), "again", {}).ok()) << text;
    } else {
      ++refused;
    }
    for (const auto& violation : diagnostics.violations()) {
      ASSERT_EQ(violation.location.rfind("job.yaml", 0), 0u) << text;
      ASSERT_FALSE(violation.reason.empty()) << text;
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_GT(refused, 200);
}

TEST(Mutation, DeepNestingIsRefusedNotOverflowed) {
  const std::string deep(100'000, '[');
  EXPECT_FALSE(parse_problems("name: " + deep).empty());
  EXPECT_FALSE(parse_problems("name: " + std::string(100'000, '{')).empty());
}

}  // namespace
}  // namespace emoe::config
