#include "format/safetensors_header.h"

#include <gtest/gtest.h>

#include "tests/format/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using testing::entry;
using testing::one_tensor;
using testing::safetensors_bytes;
using testing::TempDir;
using testing::write_bytes;

struct BadFile {
  const char* what;
  std::string bytes;
  std::string expected;  // in the message
};

std::string two(const std::string& first, const std::string& second, size_t data_bytes) {
  return safetensors_bytes(
      "{" + entry("a", "F32", "[1]", first) + "," + entry("b", "F32", "[1]", second) + "}",
      std::string(data_bytes, '\1'));
}

std::string with_length(uint64_t length, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + rest;
}

std::vector<BadFile> bad_files() {
  return {
      {"empty file", "", "is empty (0 bytes)"},
      {"shorter than the length", "abc", "begins with \"abc\""},
      {"header length 0", with_length(0, "{}"), "header length 0"},
      {"header length 1", with_length(1, "{}"), "header length 1"},
      {"shorter than the length, no text", "\1\2\3", "only 3 bytes"},
      {"a pointer of git-LFS", "version https://git-lfs.github.com/spec/v1\nsize 9\n",
       "git-LFS pointer"},
      {"header beyond the file", with_length(100, "{}"), "beyond the end"},
      {"header above the limit", with_length((16 << 20) + 1, "{}"), "limit"},
      {"header length all ones", with_length(UINT64_MAX, "{}"), "limit"},
      {"a JSON list", safetensors_bytes("[1]", ""), "not a JSON object"},
      {"leading space", safetensors_bytes(" {}", ""), "not a JSON object"},
      {"broken JSON", safetensors_bytes("{\"a\":", ""), "not JSON"},
      {"NUL in the header", safetensors_bytes(std::string("{}\0", 3), ""), "NUL"},
      {"text after the JSON", safetensors_bytes("{}x", ""), "not JSON"},
      {"name twice",
       safetensors_bytes(
           "{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[0,1]") + "}",
           "x"),
       "\"a\" stands twice"},
      {"dtype twice",
       safetensors_bytes(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
                         "x"),
       "\"dtype\" stands twice"},
      {"entry is no object", safetensors_bytes("{\"a\":1}", ""), "\"a\": its header entry"},
      {"no dtype", safetensors_bytes(R"({"a":{"shape":[],"data_offsets":[0,4]}})", "xxxx"),
       "\"a\": needs dtype"},
      {"unknown key",
       safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", "x"),
       "unknown header key \"x\""},
      {"unknown dtype", one_tensor("F33", "[1]", "[0,4]", 4), "\"a\": unknown dtype \"F33\""},
      {"dtype is a number",
       safetensors_bytes(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}})", "x"),
       "dtype is not a string"},
      {"shape against range", one_tensor("F32", "[2]", "[0,4]", 4),
       "needs 8 bytes, its range has 4"},
      {"negative size", one_tensor("F32", "[-1]", "[0,4]", 4), "\"a\": shape"},
      {"fraction size", one_tensor("F32", "[1.0]", "[0,4]", 4), "\"a\": shape"},
      {"size above 64 bits", one_tensor("F32", "[36893488147419103232]", "[0,4]", 4),
       "\"a\": shape"},
      {"product overflows", one_tensor("F32", "[4611686018427387904,4]", "[0,0]", 0), "63 bits"},
      {"product wraps to 0", one_tensor("F32", "[4294967296,4294967296]", "[0,0]", 0), "63 bits"},
      {"negative offset", one_tensor("F32", "[1]", "[-4,0]", 4), "\"a\": data_offsets"},
      {"end before begin", one_tensor("F32", "[1]", "[4,0]", 4), "\"a\": data_offsets"},
      {"offset above 63 bits",
       one_tensor("F32", "[1]", "[18446744073709551612,18446744073709551616]", 4),
       "\"a\": data_offsets"},
      {"three offsets", one_tensor("F32", "[1]", "[0,4,8]", 4), "\"a\": data_offsets"},
      {"beyond the data", one_tensor("F32", "[2]", "[0,8]", 4), "\"a\": bytes 0 … 8 reach beyond"},
      {"truncated data", two("[0,4]", "[4,8]", 7),
       "\"b\": bytes 4 … 8 reach beyond the data (7 bytes): the file is cut short"},
      {"overlap", two("[0,4]", "[2,6]", 6), "\"b\": overlaps"},
      {"the same range", two("[0,4]", "[0,4]", 4), "overlaps"},
      {"hole", two("[0,4]", "[8,12]", 12), "\"b\": a hole of 4 bytes"},
      {"hole at the front", one_tensor("F32", "[1]", "[4,8]", 8), "\"a\": a hole"},
      {"data after the last", one_tensor("F32", "[1]", "[0,4]", 5),
       "1 bytes after the last tensor"},
      {"data without a tensor", safetensors_bytes("{}", "x"), "1 bytes after the last tensor"},
      {"metadata is no object", safetensors_bytes(R"({"__metadata__":1})", ""), "__metadata__"},
  };
}

TEST(SafetensorsHeader, EveryMalformedFileIsDataLossThatNamesFileAndTensor) {
  const TempDir dir;
  const auto path = dir / "weights.safetensors";
  for (const BadFile& bad : bad_files()) {
    SCOPED_TRACE(bad.what);
    write_bytes(path, bad.bytes);
    const auto file = read_safetensors_header(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), StatusCode::kDataLoss);
    const std::string message(file.status().message());
    EXPECT_NE(message.find("weights.safetensors"), std::string::npos) << message;
    EXPECT_NE(message.find(bad.expected), std::string::npos) << message;
  }
}

TEST(SafetensorsHeader, AbsentFileIsNotFound) {
  const TempDir dir;
  EXPECT_EQ(read_safetensors_header(dir / "none").status().code(), StatusCode::kNotFound);
}

TEST(SafetensorsHeader, GivesTensorsAndMetadataWithoutTheData) {
  const TempDir dir;
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\",\"by\":{\"step\":[7]}}," +
                             entry("b", "BF16", "[2,3]", "[4,16]") + "," +
                             entry("a", "F32", "[]", "[0,4]") + "}";
  write_bytes(dir / "a.safetensors", safetensors_bytes(header, std::string(16, 'x')));
  const auto read = read_safetensors_header(dir / "a.safetensors");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->file_bytes, 8 + header.size() + 16);
  EXPECT_EQ(read->metadata.at("format"), "pt");
  EXPECT_EQ(read->metadata.at("by"), "{\"step\":[7]}");
  const TensorInfo& b = read->tensors.at("b");
  EXPECT_EQ(b.dtype, "BF16");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.begin, 8 + header.size() + 4);
  EXPECT_EQ(b.end, read->file_bytes);
  EXPECT_EQ(read->tensors.at("a").shape, std::vector<int64_t>{});
}

}  // namespace
}  // namespace emoe
