#include "format/weight_headers.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/format/model_folder.h"
#include "tests/format/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using testing::entry;
using testing::safetensors_bytes;
using testing::TempDir;
using testing::write_bytes;

void write_index(const std::filesystem::path& folder, const std::string& weight_map) {
  write_bytes(folder / kIndexFileName, "{\"weight_map\":{" + weight_map + "}}");
}

// Three shards: embed, z and a, norm.
void write_shards(const std::filesystem::path& folder) {
  const auto shard = [&](const std::string& number, const std::string& header, size_t data_bytes) {
    write_bytes(folder / ("model-0000" + number + "-of-00003.safetensors"),
                safetensors_bytes("{" + header + "}", std::string(data_bytes, '\1')));
  };
  shard("1", entry("embed", "F32", "[4,2]", "[0,32]"), 32);
  shard("2", entry("a", "F32", "[3]", "[16,28]") + "," + entry("z", "F32", "[2,2]", "[0,16]"), 28);
  shard("3", entry("norm", "F32", "[2]", "[0,8]"), 8);
  write_index(folder, R"("embed":"model-00001-of-00003.safetensors",
                         "z":"model-00002-of-00003.safetensors",
                         "a":"model-00002-of-00003.safetensors",
                         "norm":"model-00003-of-00003.safetensors")");
}

std::string error_of(const std::filesystem::path& folder, StatusCode code) {
  const Status status = read_weight_headers(folder).status();
  EXPECT_EQ(status.code(), code) << status;
  return std::string(status.message());
}

TEST(WeightHeaders, ShardsAreReadInFileOrder) {
  const TempDir dir;
  write_shards(dir.path());
  const auto weights = read_weight_headers(dir.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->tensors.size(), 4u);
  EXPECT_EQ(weights->tensors.at("z").file, (dir / "model-00002-of-00003.safetensors").string());
  EXPECT_EQ(weights->layout().at("model-00002-of-00003.safetensors"),
            (std::vector<std::string>{"z", "a"}));
}

TEST(WeightHeaders, TheSingleFileGoesBeforeAnIndex) {
  const TempDir dir;
  write_shards(dir.path());
  write_bytes(dir / kSingleFileName,
              safetensors_bytes("{" + entry("x", "U8", "[1]", "[0,1]") + "}", "1"));
  const auto weights = read_weight_headers(dir.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->layout(),
            (std::map<std::string, std::vector<std::string>>{{kSingleFileName, {"x"}}}));
}

TEST(WeightHeaders, MissingShardIsNotFound) {
  const TempDir dir;
  write_shards(dir.path());
  std::filesystem::remove(dir / "model-00002-of-00003.safetensors");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound)
                .find("1 of its 3 shards is missing: model-00002-of-00003.safetensors"),
            std::string::npos);
  std::filesystem::remove(dir / "model-00001-of-00003.safetensors");
  std::filesystem::create_symlink("../blobs/5f", dir / "model-00001-of-00003.safetensors");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound)
                .find("2 of its 3 shards are missing (links to nothing): model-00001-of-00003"),
            std::string::npos);
}

// The blobs of a hub's cache are gone: what is there must not be taken for absent.
TEST(WeightHeaders, ALinkToNothingIsNamed) {
  for (const char* name : {kSingleFileName, kIndexFileName}) {
    const TempDir dir;
    std::filesystem::create_symlink("../../blobs/5f", dir / name);
    EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound).find("is a link to ../../blobs/5f"),
              std::string::npos);
  }
}

TEST(WeightHeaders, DamagedShardIsDataLoss) {
  const TempDir dir;
  write_shards(dir.path());
  std::filesystem::resize_file(dir / "model-00003-of-00003.safetensors", 60);
  EXPECT_NE(error_of(dir.path(), StatusCode::kDataLoss).find("model-00003-of-00003"),
            std::string::npos);
}

TEST(WeightHeaders, IndexAndShardsMustAgree) {
  const TempDir dir;
  write_shards(dir.path());
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

TEST(WeightHeaders, AWrongTotalSizeIsToldOf) {
  const TempDir dir;
  write_shards(dir.path());
  EXPECT_TRUE(read_weight_headers(dir.path())->warnings.empty());
  std::string text = read_file(dir / kIndexFileName).value();
  for (const int64_t size : {68, 76}) {
    write_bytes(dir / kIndexFileName,
                absl::StrCat(R"({"metadata":{"total_size":)", size, "},", text.substr(1)));
    const auto weights = read_weight_headers(dir.path());
    ASSERT_TRUE(weights.ok()) << weights.status();
    ASSERT_EQ(weights->warnings.size(), size == 68 ? 0u : 1u);
    if (size == 68) continue;
    EXPECT_EQ(weights->warnings[0].code, warning::kIndexSize);
    EXPECT_EQ(weights->warnings[0].text, "metadata.total_size is 76, the tensors have 68 bytes");
  }
}

TEST(WeightHeaders, TensorsThatNobodyReadsAreSaid) {
  const TempDir dir;
  testing::write_zeros(dir / "model.safetensors",
                       {{"a", {1}},
                        {"model.layers.1.self_attn.rotary_emb.inv_freq", {4}},
                        {"model.layers.0.self_attn.rotary_emb.inv_freq", {4}},
                        {"model.rotary_emb.cos_cached", {4}}});
  const auto weights = read_weight_headers(dir.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_EQ(weights->warnings.size(), 1);
  EXPECT_EQ(weights->warnings[0].code, warning::kTensorsSkipped);
  EXPECT_EQ(weights->warnings[0].count, 3);
  EXPECT_EQ(weights->warnings[0].first, "model.layers.0.self_attn.rotary_emb.inv_freq");
  EXPECT_EQ(weights->warnings[0].where, "model.safetensors");
}

TEST(WeightHeaders, CountsTheDtypes) {
  const TempDir dir;
  write_shards(dir.path());
  EXPECT_EQ(read_weight_headers(dir.path())->dtypes(),
            (std::map<std::string, int64_t>{{"F32", 4}}));
}

TEST(WeightHeaders, MalformedIndexIsDataLoss) {
  const TempDir dir;
  write_shards(dir.path());
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

TEST(WeightHeaders, FolderWithoutWeightsSaysWhatWasLookedFor) {
  const TempDir dir;
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound).find("model.safetensors"),
            std::string::npos);
  write_bytes(dir / "model-00001-of-00002.safetensors", "x");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound)
                .find("it has model-00001-of-00002.safetensors, but not the index"),
            std::string::npos);
  write_bytes(dir / "pytorch_model.bin", "x");
  EXPECT_NE(error_of(dir.path(), StatusCode::kNotFound)
                .find("M.from_pretrained(\"" + dir.path().string() + "\", torch_dtype="),
            std::string::npos);
}

}  // namespace
}  // namespace emoe
