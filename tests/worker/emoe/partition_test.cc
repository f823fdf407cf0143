#include "worker/emoe/partition.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

using testing::TempDir;

constexpr int64_t kWidth = 24;  // d_ff
constexpr int64_t kHidden = 6;

std::vector<float> weights(int64_t seed = 1) {
  std::vector<float> rows;
  for (int64_t i = 0; i < kWidth * kHidden; ++i) {
    rows.push_back(static_cast<float>(partition_random_bits(seed, 0, 0, i) % 2001) / 1000.0F -
                   1.0F);
  }
  return rows;
}

Partition make(const std::vector<float>& rows, const PartitionOptions& options) {
  Result<Partition> partition = make_partition(rows, kWidth, kHidden, options);
  EXPECT_TRUE(partition.ok()) << partition.status();
  return partition.ok() ? *std::move(partition) : Partition();
}

std::string message(const Status& status) {
  return std::string(status.message());
}

TEST(Partition, every_method_is_balanced_and_kmeans_is_the_tightest) {
  const std::vector<float> rows = weights();
  std::map<std::string, double> inertia;
  for (const char* method : {"kmeans", "random", "contiguous"}) {
    const Partition partition = make(rows, {.num_experts = 4, .method = method, .seed = 3});
    EXPECT_TRUE(check_labels(partition, kWidth).ok());
    EXPECT_EQ(partition.method, method);
    EXPECT_EQ(partition.seed, 3);
    EXPECT_EQ(partition.weight_hash.size(), 64u);
    inertia[method] = partition.inertia;
  }
  EXPECT_LT(inertia["kmeans"], inertia["random"]);
  EXPECT_LT(inertia["kmeans"], inertia["contiguous"]);
  const Partition contiguous = make(rows, {.num_experts = 4, .method = "contiguous"});
  for (size_t i = 0; i < contiguous.labels.size(); ++i) {
    EXPECT_EQ(contiguous.labels[i], static_cast<int32_t>(i / 6));
  }
}

TEST(Partition, random_depends_on_seed_and_layer_only) {
  const PartitionOptions options{.num_experts = 4, .method = "random", .seed = 3, .layer = 1};
  const Partition first = make(weights(1), options);
  EXPECT_EQ(make(weights(2), options).labels, first.labels);
  PartitionOptions other = options;
  other.seed = 4;
  EXPECT_NE(make(weights(1), other).labels, first.labels);
  other = options;
  other.layer = 2;
  EXPECT_NE(make(weights(1), other).labels, first.labels);
}

TEST(Partition, kmeans_looks_at_directions_not_lengths) {
  std::vector<float> rows = weights();
  const Partition first = make(rows, {.num_experts = 6});
  for (int64_t i = 0; i < kWidth; ++i) {
    const float factor = i % 2 == 0 ? 8.0F : 0.25F;  // powers of two: exact
    for (int64_t k = 0; k < kHidden; ++k) rows[static_cast<size_t>(i * kHidden + k)] *= factor;
  }
  const Partition second = make(rows, {.num_experts = 6});
  EXPECT_EQ(second.labels, first.labels);
  EXPECT_DOUBLE_EQ(second.inertia, first.inertia);
  EXPECT_NE(second.weight_hash, first.weight_hash);
}

TEST(Partition, refuses_what_makes_no_experts) {
  const std::vector<float> rows = weights();
  const auto fail = [&](const PartitionOptions& options) {
    return make_partition(rows, kWidth, kHidden, options).status();
  };
  const Status divide = fail({.num_experts = 5});
  EXPECT_EQ(divide.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(message(divide).find("possible are 1, 2, 3, 4, 6, 8, 12, 24"), std::string::npos)
      << divide;
  EXPECT_FALSE(fail({.num_experts = 0}).ok());
  EXPECT_FALSE(fail({.num_experts = -4}).ok());
  EXPECT_FALSE(fail({.num_experts = 4, .method = "coactivation"}).ok());
  EXPECT_FALSE(fail({.num_experts = 4, .restarts = 0}).ok());
  EXPECT_FALSE(make_partition(rows, kWidth, kHidden + 1, {.num_experts = 4}).ok());
  std::vector<float> broken = rows;
  broken[7] = std::numeric_limits<float>::quiet_NaN();
  const Status nan = make_partition(broken, kWidth, kHidden, {.num_experts = 4}).status();
  EXPECT_EQ(nan.code(), StatusCode::kDataLoss);
  EXPECT_NE(message(nan).find("row 1 "), std::string::npos) << nan;
}

TEST(Partition, a_written_file_is_read_back_and_used) {
  TempDir folder;
  const std::vector<float> rows = weights();
  const Partition made = make(rows, {.num_experts = 4, .seed = 9, .layer = 7});
  ASSERT_TRUE(write_partition(folder / "partition", 7, made).ok());
  EXPECT_TRUE(std::filesystem::exists(folder / "partition/layer_07.json"));
  EXPECT_EQ(partition_file(folder.path(), 128).filename(), "layer_128.json");
  const Result<Partition> read = read_partition(folder / "partition", 7);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->labels, made.labels);
  EXPECT_EQ(read->inertia, made.inertia);
  EXPECT_EQ(read->method, "kmeans");
  EXPECT_EQ(read->seed, 9);
  EXPECT_EQ(read->weight_hash, made.weight_hash);
  const PartitionOptions use{
      .num_experts = 4, .method = "file", .layer = 7, .folder = folder / "partition"};
  const Partition used = make(rows, use);
  EXPECT_EQ(used.labels, made.labels);
  EXPECT_EQ(used.method, "file");
  EXPECT_DOUBLE_EQ(used.inertia, made.inertia);
}

TEST(Partition, a_file_must_fit_the_weights_and_the_job) {
  TempDir folder;
  const std::vector<float> rows = weights();
  Partition made = make(rows, {.num_experts = 4});
  ASSERT_TRUE(write_partition(folder.path(), 0, made).ok());
  PartitionOptions use{.num_experts = 4, .method = "file", .folder = folder.path()};
  const Status other = make_partition(weights(2), kWidth, kHidden, use).status();
  EXPECT_EQ(other.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(message(other).find("made from other weights"), std::string::npos) << other;
  use.tuned_since = true;  // as if training had made weights(2) of them
  EXPECT_EQ(make(weights(2), use).labels, made.labels);
  use.num_experts = 6;
  EXPECT_EQ(make_partition(rows, kWidth, kHidden, use).status().code(),
            StatusCode::kInvalidArgument);
  use.num_experts = 4;
  use.layer = 1;
  EXPECT_EQ(make_partition(rows, kWidth, kHidden, use).status().code(), StatusCode::kNotFound);
  use.layer = 0;
  made.weight_hash = "";  // labels of another tool
  ASSERT_TRUE(write_partition(folder.path(), 0, made).ok());
  EXPECT_EQ(make(weights(2), use).labels, made.labels);
}

TEST(Partition, says_what_is_wrong_with_a_file) {
  TempDir folder;
  const auto read = [&](const std::string& text) {
    EXPECT_TRUE(write_file_atomically(folder / "layer_00.json", text).ok());
    const Status status = read_partition(folder.path(), 0).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
    EXPECT_NE(message(status).find("layer_00.json"), std::string::npos);
    return message(status);
  };
  EXPECT_NE(read("{").find("is no partition file"), std::string::npos);
  EXPECT_NE(read("[]").find("is no partition file"), std::string::npos);
  EXPECT_NE(read(R"({"experts": 2})").find("labels"), std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "labels": [0, 1.5]})").find("labels: 1.5 is no whole"),
            std::string::npos);
  // Numbers that wrap or lose their fraction would make other experts than the file says.
  EXPECT_NE(read(R"({"experts": 2, "labels": [0, 4294967297]})").find("labels: 4294967297"),
            std::string::npos);
  EXPECT_NE(read(R"({"experts": 2.5, "labels": [0, 1]})").find("experts: 2.5"), std::string::npos);
  EXPECT_NE(read(R"({"experts": 4294967298, "labels": [0, 1]})").find("experts: 4294967298"),
            std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "seed": 0.5, "labels": [0, 1]})").find("seed: 0.5"),
            std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "labels": []})").find("0 labels"), std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "labels": [0, 2]})").find("label 2 of neuron 1"),
            std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "labels": [0, 0, 0, 1]})").find("expert 0 has 3"),
            std::string::npos);
  EXPECT_NE(read(R"({"experts": 2, "labels": [0, 1, 0]})").find("possible are 1, 3"),
            std::string::npos);
}

class PartitionCacheTest : public ::testing::Test {
 protected:
  std::filesystem::path only_file() {
    std::filesystem::path found;
    for (const auto& entry : std::filesystem::directory_iterator(options_.cache_dir)) {
      EXPECT_TRUE(found.empty());
      found = entry.path();
    }
    return found;
  }
  TempDir folder_;
  PartitionOptions options_{.num_experts = 4, .cache_dir = folder_ / "cache"};
};

TEST_F(PartitionCacheTest, is_used_and_a_damaged_one_is_made_anew) {
  const Partition fresh = make(weights(), options_);
  const std::string whole = *read_file(only_file());
  EXPECT_EQ(make(weights(), options_).labels, fresh.labels);
  for (const std::string& broken :
       {whole.substr(0, whole.size() / 2), std::string(), "x" + whole, whole + " "}) {
    ASSERT_TRUE(write_file_atomically(only_file(), broken).ok());
    EXPECT_EQ(make(weights(), options_).labels, fresh.labels);
    EXPECT_EQ(*read_file(only_file()), whole);
  }
}

TEST_F(PartitionCacheTest, holds_nothing_of_what_was_stopped) {
  options_.stop = [] { return true; };
  const Status status = make_partition(weights(), kWidth, kHidden, options_).status();
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status;
  EXPECT_FALSE(std::filesystem::exists(options_.cache_dir));
}

TEST_F(PartitionCacheTest, holds_one_file_for_each_question) {
  (void)make(weights(), options_);
  std::vector<PartitionOptions> others(4, options_);
  others[0].seed = 1;
  others[1].restarts = 2;
  others[2].num_experts = 6;
  others[3].layer = 1;
  for (const PartitionOptions& other : others) (void)make(weights(), other);
  (void)make(weights(2), options_);
  const auto files = std::filesystem::directory_iterator(options_.cache_dir);
  EXPECT_EQ(std::distance(begin(files), end(files)), 6);
}

}  // namespace
}  // namespace emoe::worker
