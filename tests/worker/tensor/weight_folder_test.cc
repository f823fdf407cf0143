#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "format/weight_headers.h"
#include "tests/support/temp_dir.h"
#include "worker/tensor/safetensors.h"
#include "worker/tensor/sharded_writer.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;

std::vector<SafetensorsWriter::Planned> plan_of_four() {
  return {{"embed", "F32", {4, 2}}, {"z", "F32", {2, 2}}, {"a", "F32", {3}}, {"norm", "F32", {2}}};
}

at::Tensor content(size_t i, const std::vector<int64_t>& shape) {
  return at::full(shape, static_cast<double>(i) + 0.25);
}

void write_folder(const std::filesystem::path& folder, uint64_t max_bytes) {
  const auto plan = plan_of_four();
  auto writer = ShardedWriter::create(folder, plan_shards(plan, max_bytes).value());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < plan.size(); ++i) {
    ASSERT_TRUE(writer->write(content(i, plan[i].shape)).ok());
  }
  ASSERT_TRUE(writer->close().ok());
}

TEST(PlanShards, SplitsInOrderAndNamesAsTransformersDoes) {
  const auto one = plan_shards(plan_of_four(), 1000).value();
  ASSERT_EQ(one.size(), 1);
  EXPECT_EQ(one[0].file, "model.safetensors");
  const auto shards = plan_shards(plan_of_four(), 28).value();  // 32, 16 + 12, 8 bytes
  ASSERT_EQ(shards.size(), 3);
  EXPECT_EQ(shards[0].file, "model-00001-of-00003.safetensors");
  EXPECT_EQ(shards[1].tensors.size(), 2);
  EXPECT_EQ(shards[2].tensors[0].name, "norm");
}

TEST(WeightFolder, ShardsRoundTripInFileOrder) {
  for (const uint64_t max_bytes : {28, 1000}) {
    const TempDir dir;
    write_folder(dir.path(), max_bytes);
    const auto folder = WeightFolder::open(dir.path());
    ASSERT_TRUE(folder.ok()) << folder.status();
    const auto plan = plan_of_four();
    EXPECT_EQ(folder->tensors().size(), plan.size());
    for (size_t i = 0; i < plan.size(); ++i) {
      EXPECT_TRUE(at::equal(folder->tensor(plan[i].name, plan[i].shape).value(),
                            content(i, plan[i].shape)));
      EXPECT_EQ(folder->raw(plan[i].name).size(), content(i, plan[i].shape).nbytes());
    }
    if (max_bytes == 28) {
      EXPECT_EQ(folder->headers().layout().at("model-00002-of-00003.safetensors"),
                (std::vector<std::string>{"z", "a"}));
    }
    EXPECT_EQ(std::filesystem::exists(dir / kIndexFileName), max_bytes == 28);
  }
}

TEST(WeightFolder, MissingTensorAndOtherShapeAreErrorsThatNameThem) {
  const TempDir dir;
  write_folder(dir.path(), 1000);
  const auto folder = WeightFolder::open(dir.path());
  const Status shape = folder->tensor("embed", {2, 4}).status();
  EXPECT_EQ(shape.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(shape.message().find("\"embed\" has shape [4, 2], expected [2, 4]"),
            absl::string_view::npos);
  EXPECT_EQ(folder->tensor("nope", {1}).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace emoe::worker
