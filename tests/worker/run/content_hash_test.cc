#include "worker/run/content_hash.h"

#include <set>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/sha256.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/run/tiny_job.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using emoe::testing::TempDir;

void write(const fs::path& path, const std::string& text) {
  ASSERT_TRUE(write_file_atomically(path, text).ok());
}

// The size and all times of `path` as before, as far as a program can set them.
void set_time_of(const fs::path& path, const struct stat& before) {
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(ContentHasher, IsTheSha256AndSeesChanges) {
  const TempDir dir;
  ContentHasher hasher("");
  write(dir / "a", "one");
  EXPECT_EQ(hasher.file(dir / "a").value(), sha256_hex("one"));
  write(dir / "a", "two");
  EXPECT_EQ(hasher.file(dir / "a").value(), sha256_hex("two"));
  EXPECT_EQ(hasher.file(dir / "none").status().code(), StatusCode::kNotFound);
}

TEST(ContentHasher, WritesItsCacheOnlyWhenTold) {
  const TempDir dir;
  write(dir / "a", "one");
  ContentHasher hasher(dir / "cache");
  EXPECT_EQ(hasher.file(dir / "a").value(), sha256_hex("one"));
  EXPECT_FALSE(fs::exists(dir / "cache"));
  hasher.remember();
  const auto entry = *fs::directory_iterator(dir / "cache" / "hashes");
  // What the next one reads there is believed: the file itself is not read again.
  std::string text = read_file(entry).value();
  text.replace(text.size() - 64, 64, std::string(64, 'e'));
  write(entry, text);
  EXPECT_EQ(ContentHasher(dir / "cache").file(dir / "a").value(), std::string(64, 'e'));
  // Unless it has changed, be it only by its inode.
  struct stat before {};
  ASSERT_EQ(::stat((dir / "a").c_str(), &before), 0);
  write(dir / "a", "two");
  set_time_of(dir / "a", before);
  EXPECT_EQ(ContentHasher(dir / "cache").file(dir / "a").value(), sha256_hex("two"));
}

// Of a job that names a file of every kind: the program's hash is prepare's to add.
TEST(HashInputs, HashEveryContentOfAJob) {
  const testing::TinyJob job;
  for (const char* file : {"adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                           "partition/layer_00.json", "partition/layer_02.json",
                           "suite/dev/a_dev.csv", "suite/test/a_test.csv"}) {
    ASSERT_TRUE(emoe::create_directories((job / file).parent_path()).ok());
    write(job / file, file);
  }
  const JobPlan plan = job.plan({"data.eval=" + job.rows().string(),
                                 "lora.init_adapter=" + (job / "adapter").string(),
                                 "evaluate={path: " + (job / "suite").string() + "}",
                                 "emoe={experts: 4, top_k: 2, layers: {list: [0, 2]}, partition: "
                                 "{method: file, path: " +
                                     (job / "partition").string() + "}}"});
  ContentHasher hasher("");
  const ContentHashes hashes = hash_inputs(plan, hasher).value();
  std::set<std::string> seen;
  for (const ContentField& content : kContentFields) {
    const bool recorded_only = content.source == nullptr;
    EXPECT_EQ((hashes.*content.hash).size(), recorded_only ? 0u : 64u) << content.key;
    if (!recorded_only) seen.insert(hashes.*content.hash);
  }
  EXPECT_EQ(seen.size(), kContentFields.size() - 2);  // data.eval is data.train's file here
}

TEST(ContentHasher, AModelIsItsConfigAndWeights) {
  const TempDir dir;
  write(dir / "config.json", "{}");
  write(dir / "model.safetensors", "weights");
  const std::string before = ContentHasher("").model(dir.path()).value();
  write(dir / "README.md", "of no matter");
  EXPECT_EQ(ContentHasher("").model(dir.path()).value(), before);
  fs::rename(dir / "model.safetensors", dir / "other.safetensors");
  EXPECT_NE(ContentHasher("").model(dir.path()).value(), before);
}

TEST(ContentHasher, TellsAModelThatChangedDuringTheRun) {
  const TempDir dir;
  write(dir / "config.json", "{}");
  write(dir / "model.safetensors", "weights");
  ContentHasher hasher("");
  ASSERT_TRUE(hasher.model(dir.path()).ok());
  EXPECT_TRUE(hasher.check_model_unchanged().ok());
  // Another name for it changes nothing in it.
  fs::create_hard_link(dir / "model.safetensors", dir / "link");
  EXPECT_TRUE(hasher.check_model_unchanged().ok());
  write(dir / "model.safetensors", "weightz");
  const Status changed = hasher.check_model_unchanged();
  EXPECT_EQ(changed.code(), StatusCode::kAborted);
  EXPECT_NE(changed.message().find("model.safetensors"), absl::string_view::npos) << changed;
  fs::remove(dir / "model.safetensors");
  EXPECT_NE(hasher.check_model_unchanged().message().find("is gone"), absl::string_view::npos);
}

}  // namespace
}  // namespace emoe::worker
