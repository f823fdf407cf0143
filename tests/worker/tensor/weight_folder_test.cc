#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/tensor/safetensors_bytes.h"
#include "worker/tensor/safetensors.h"
#include "worker/tensor/sharded_writer.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;
using testing::write_bytes;

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

std::string error_of(const std::filesystem::path& folder, StatusCode code) {
  const Status status = WeightFolder::open(folder).status();
  EXPECT_EQ(status.code(), code) << status;
  return std::string(status.message());
}

void write_index(const std::filesystem::path& folder, const std::string& weight_map) {
  write_bytes(folder / kIndexFileName, "{\"weight_map\":{" + weight_map + "}}");
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
      EXPECT_EQ(folder->shards().at("model-00002-of-00003.safetensors"),
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

TEST(WeightFolder, MissingShardIsNotFound) {
  const TempDir dir;
  write_folder(dir.path(), 28);
  std::filesystem::remove(dir / "model-00002-of-00003.safetensors");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound).find("model-00002-of-00003"),
            std::string::npos);
}

TEST(WeightFolder, DamagedShardIsDataLoss) {
  const TempDir dir;
  write_folder(dir.path(), 28);
  std::filesystem::resize_file(dir / "model-00003-of-00003.safetensors", 60);
  EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find("model-00003-of-00003"),
            std::string::npos);
}

TEST(WeightFolder, IndexAndShardsMustAgree) {
  const TempDir dir;
  write_folder(dir.path(), 28);
  const std::string embed = R"("embed":"model-00001-of-00003.safetensors")";
  const std::string z = R"("z":"model-00002-of-00003.safetensors")";
  const std::string a = R"("a":"model-00002-of-00003.safetensors")";
  // "a" lies in shard 2, which the index does not say.
  write_index(dir.path(), embed + "," + z);
  EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find("tensor \"a\" is in this shard"),
            std::string::npos);
  // The index names a tensor that its shard lacks.
  write_index(dir.path(), embed + R"(,"ghost":"model-00001-of-00003.safetensors")");
  EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find("tensor \"ghost\" is missing"),
            std::string::npos);
  // The index puts a tensor into another shard.
  write_index(dir.path(), embed + "," + a + R"(,"z":"model-00001-of-00003.safetensors")");
  EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find("tensor \"z\""), std::string::npos);
}

TEST(WeightFolder, MalformedIndexIsDataLoss) {
  const TempDir dir;
  write_folder(dir.path(), 28);
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string("{}"), std::string("{\"weight_map\":[]}"),
        std::string("{\"weight_map\":{}}"), std::string("{\"weight_map\":{\"a\":1}}"),
        std::string("{\"weight_map\":{\"a\":\"../model.safetensors\"}}"),
        std::string("{\"weight_map\":{\"a\":\"model.bin\"}}"),
        std::string("{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}")}) {
    SCOPED_TRACE(text);
    write_bytes(dir / kIndexFileName, text);
    EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find(kIndexFileName), std::string::npos);
  }
}

TEST(WeightFolder, FolderWithoutWeightsSaysWhatWasLookedFor) {
  const TempDir dir;
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound).find("model.safetensors"),
            std::string::npos);
  write_bytes(dir / "pytorch_model.bin", "x");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound).find("safe_serialization"),
            std::string::npos);
}

}  // namespace
}  // namespace emoe::worker
