#include "base/input_file.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using std::string_literals::operator""s;

const std::string kPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 13476835328\n";

const std::vector<InputKind> kKinds{InputKind::text, InputKind::safetensors,
                                    InputKind::sentencepiece};

TEST(InputFile, what_stands_in_for_a_file_is_named_for_every_kind) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {kPointer, "is a git-LFS pointer, the file itself (13476835328 bytes) was not downloaded"},
      {"/annex/objects/MD5E-s5--x", "is a git-annex pointer"},
      {"\n <!DOCTYPE HTML><title>Sign in</title>", "is an HTML page"},
      {"\xEF\xBB\xBF<html lang=en>", "is an HTML page"},
      {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "is an error message"},
      {"Entry not found", "is an error message"},
      {"{\"error\":\"Access to this model is restricted\"}", "is an error message"},
      {"", "is empty"},
      {std::string(100, '\0'), "begins with zero bytes"},
      {"PK\x03\x04\0\0"s, ""},
      {"\x1f\x8b\x08\0\0\0\0\0\0\x03"s, "is compressed with gzip"},
      {"\x28\xb5\x2f\xfd\x04"s, "is compressed with zstd"},
      {"GGUF\x03\0\0\0"s, "is a GGUF file"},
      {"PAR1\x15\x04\x15"s, "is a Parquet file"}};
  for (const auto& [front, wanted] : cases) {
    for (const InputKind kind : kKinds) {
      const std::string reason = stand_in(front, kind);
      EXPECT_FALSE(reason.empty()) << front;
      EXPECT_EQ(reason.find(wanted), 0u) << reason;
    }
  }
}

TEST(InputFile, a_pickle_in_place_of_safetensors_says_how_to_convert_it) {
  for (const std::string& front : {"PK\x03\x04\0\0\x08\x08"s, "\x80\x02}q"s,
                                   "\x80\x02\x8a\nl\xfc\x9c"s, "\x80\x04\x95\x01"s}) {
    const std::string reason = stand_in(front, InputKind::safetensors);
    EXPECT_NE(reason.find("safe_serialization=True"), std::string::npos) << reason;
  }
  EXPECT_EQ(stand_in("PK\x03\x04\0\0"s, InputKind::text), "is a zip archive");
}

TEST(InputFile, utf_16_is_no_text_here) {
  for (const std::string& front :
       {"\xFF\xFE{\0\"\0"s, "\xFE\xFF\0{\0\""s, "{\0\"\0a\0"s, "\0a\0b\0c"s})
    EXPECT_EQ(stand_in(front, InputKind::text).find("is UTF-16 text"), 0u) << front;
}

TEST(InputFile, nor_is_utf_32) {
  for (const std::string& front :
       {"\xFF\xFE\0\0{\0\0\0"s, "\0\0\xFE\xFF\0\0\0{"s, "{\0\0\0\"\0\0\0"s, "\0\0\0{\0\0\0\""s})
    EXPECT_EQ(stand_in(front, InputKind::text).find("is UTF-32 text"), 0u) << front;
}

TEST(InputFile, text_in_place_of_a_binary_is_quoted) {
  EXPECT_EQ(stand_in("Not Found\nsorry", InputKind::safetensors),
            "is no safetensors file; it is text that begins with \"Not Found\"");
  EXPECT_EQ(stand_in("IQ== 0\nIg== 1\n", InputKind::sentencepiece),
            "is no SentencePiece model; it is text that begins with \"IQ== 0\"");
}

// Nothing that a good file may begin with.
TEST(InputFile, good_files_pass) {
  EXPECT_EQ(stand_in("{\"error\": 1}\n" + std::string(600, ' '), InputKind::text), "");
  EXPECT_EQ(stand_in("GGUF, PAR1 and BZh are names of formats\n", InputKind::text), "");
  EXPECT_EQ(stand_in("<p>Text may be anything", InputKind::text), "");
  EXPECT_EQ(stand_in("\n\n\xE4\xB8\xAD", InputKind::text), "");
  EXPECT_EQ(stand_in("x", InputKind::text), "");
  EXPECT_EQ(stand_in("\n\x0e\n\x05<unk>"s, InputKind::sentencepiece), "");
  // Header lengths that look like the beginnings of other formats.
  for (const std::string& length : {"\x80\x02\0\0\0\0\0\0"s, "\x1f\x8b\x08\0\0\0\0\0"s,
                                    "PK\x03\x04\0\0\0\0"s, "  \0\0\0\0\0\0"s})
    EXPECT_EQ(stand_in(length + "{\"__metadata__\"", InputKind::safetensors), "");
}

TEST(InputFile, the_file_is_read_as_if_nobody_had_looked) {
  testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "a", "some text").ok());
  EXPECT_EQ(*read_input(dir / "a", InputKind::text), "some text");
  EXPECT_EQ(read_input(dir / "a", InputKind::text, 3).status().code(),
            StatusCode::kInvalidArgument);
  ASSERT_TRUE(write_file_atomically(dir / "b", kPointer).ok());
  const Status status = read_input(dir / "b", InputKind::text).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("b: is a git-LFS pointer"), std::string::npos) << status;
}

TEST(InputFile, a_link_to_nothing_says_so_and_is_an_entry) {
  testing::TempDir dir;
  std::filesystem::create_symlink("../blobs/4d7a", dir / "config.json");
  EXPECT_TRUE(has_entry(dir / "config.json"));
  EXPECT_FALSE(has_entry(dir / "other.json"));
  std::filesystem::create_directory_symlink("nowhere", dir / "model");
  for (const std::filesystem::path& path : {dir / "config.json", dir / "model" / "config.json"}) {
    const Status status = read_input(path, InputKind::text).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_NE(status.message().find(" is a link to "), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace emoe
