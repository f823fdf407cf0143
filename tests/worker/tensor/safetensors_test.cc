#include "worker/tensor/safetensors.h"

#include <random>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "format/dtype.h"
#include "tests/format/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace emoe::worker {
namespace {

using emoe::testing::entry;
using emoe::testing::one_tensor;
using emoe::testing::safetensors_bytes;
using emoe::testing::TempDir;
using emoe::testing::write_bytes;

TEST(SafetensorsFile, MisalignedScalarAndEmptyTensorsAreRead) {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  const float value = 1.5F;
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," +
                             entry("byte", "U8", "[1]", "[0,1]") + "," +
                             entry("empty", "F32", "[0,7]", "[1,1]") + "," +
                             entry("scalar", "F32", "[]", "[1,5]") + "}   ";
  write_bytes(path, safetensors_bytes(
                        header, "\x07" + std::string(reinterpret_cast<const char*>(&value), 4)));
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->tensor("byte").value().item<int>(), 7);
  EXPECT_EQ(file->tensor("empty").value().sizes(), at::IntArrayRef({0, 7}));
  EXPECT_EQ(file->tensor("scalar").value().dim(), 0);
  EXPECT_EQ(file->tensor("scalar").value().item<float>(), value);
  EXPECT_EQ(file->tensor("none").status().code(), StatusCode::kNotFound);
}

TEST(SafetensorsFile, TensorKeepsTheMappingAlive) {
  const TempDir dir;
  at::Tensor tensor;
  {
    write_bytes(dir / "a.safetensors", one_tensor("I32", "[2]", "[0,8]", 8));
    auto file = SafetensorsFile::open(dir / "a.safetensors");
    ASSERT_TRUE(file.ok());
    tensor = file->tensor("a").value();
  }
  EXPECT_EQ(tensor[1].item<int>(), 0x01010101);
}

TEST(Dtypes, TheElementSizesOfFormatAndLibTorchAgree) {
  for (const char* dtype : {"F32", "BF16", "F16", "F64", "I64", "I32", "I16", "I8", "U8", "U16",
                            "U32", "U64", "BOOL", "C64", "F8_E4M3", "F8_E5M2"}) {
    EXPECT_EQ(bytes_of_tensor(dtype, {1}).value(), c10::elementSize(scalar_type_of(dtype).value()))
        << dtype;
  }
}

TEST(SafetensorsFile, AFileThatChangedSinceItsHeaderWasReadIsRefused) {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  write_bytes(path, one_tensor("I32", "[2]", "[0,8]", 8));
  const auto header = read_safetensors_header(path);
  ASSERT_TRUE(SafetensorsFile::open(path, header.value()).ok());
  std::filesystem::resize_file(path, header->file_bytes - 1);
  EXPECT_EQ(SafetensorsFile::open(path, header.value()).status().code(), StatusCode::kDataLoss);
}

SafetensorsWriter::Planned planned(const std::string& name, const std::string& dtype,
                                   std::vector<int64_t> shape) {
  return {name, dtype, std::move(shape)};
}

TEST(SafetensorsWriter, RoundTripIsBitExactInEveryDtype) {
  const TempDir dir;
  at::manual_seed(7);
  std::vector<SafetensorsWriter::Planned> plan;
  std::vector<at::Tensor> tensors;
  for (const char* dtype : {"U8", "F32", "BF16", "F16", "F64", "I64", "I32", "I16", "I8", "BOOL"}) {
    plan.push_back(planned(std::string("t.") + dtype, dtype, {3, 5}));
    tensors.push_back(at::randint(0, 2, {3, 5}).to(scalar_type_of(dtype).value()));
  }
  plan.push_back(planned("empty", "F32", {0}));
  tensors.push_back(at::empty({0}));
  auto writer = SafetensorsWriter::create(dir / "a.safetensors", plan, {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const auto& tensor : tensors) ASSERT_TRUE(writer->write(tensor).ok());
  ASSERT_TRUE(writer->close().ok());

  const auto file = SafetensorsFile::open(dir / "a.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  for (size_t i = 0; i < plan.size(); ++i) {
    const at::Tensor read = file->tensor(plan[i].name).value();
    EXPECT_EQ(read.scalar_type(), tensors[i].scalar_type());
    EXPECT_TRUE(at::equal(read, tensors[i])) << plan[i].name;
  }
}

TEST(SafetensorsWriter, ConvertsToThePlannedDtypeRoundingToNearestEven) {
  const TempDir dir;
  auto writer = SafetensorsWriter::create(dir / "a.safetensors", {planned("a", "BF16", {2})}, {});
  ASSERT_TRUE(writer->write(at::tensor({1.00390625F, 1.01171875F}, at::kFloat)).ok());
  ASSERT_TRUE(writer->close().ok());
  const auto read = SafetensorsFile::open(dir / "a.safetensors")->tensor("a").value();
  EXPECT_EQ(read[0].item<float>(), 1.0F);
  EXPECT_EQ(read[1].item<float>(), 1.015625F);
}

TEST(SafetensorsWriter, RefusesWhatWasNotPlanned) {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  const auto status_of = [&](std::vector<SafetensorsWriter::Planned> plan) {
    return SafetensorsWriter::create(path, std::move(plan), {}).status().code();
  };
  EXPECT_EQ(status_of({planned("a", "F32", {1}), planned("a", "F32", {1})}),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of({planned("__metadata__", "F32", {1})}), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of({planned("a", "F99", {1})}), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of({planned("a", "F32", {-1})}), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of({planned("\xff", "F32", {1})}), StatusCode::kInvalidArgument);

  auto writer = SafetensorsWriter::create(path, {planned("a", "F32", {2})}, {});
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(writer->write(at::zeros({3})).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->write_raw({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->close().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(writer->write(at::zeros({2})).ok());
  EXPECT_EQ(writer->write(at::zeros({2})).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(writer->close().ok());
}

// Opens the file and touches every byte of every tensor it gives: what must not happen is a crash
// or a sanitizer report; most of the damaged files are refused, some differ only in a name.
bool survives(const std::filesystem::path& path) {
  auto file = SafetensorsFile::open(path);
  if (!file.ok()) return false;
  for (const auto& [name, info] : file->tensors()) {
    const auto tensor = file->tensor(name);
    if (tensor.ok() && !tensor->is_complex() && tensor->scalar_type() != at::kBool &&
        tensor->numel() > 0) {
      (void)tensor->view(at::kByte).sum();
    }
  }
  return true;
}

TEST(SafetensorsFile, RandomDamageToTheHeaderNeverCrashes) {
  const TempDir dir;
  const auto path = dir / "fuzz.safetensors";
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("a.weight", "F32", "[2,3]", "[0,24]") + "," +
      entry("b.weight", "BF16", "[4]", "[24,32]") + "," + entry("c", "I64", "[1]", "[32,40]") + "}";
  const std::string good = safetensors_bytes(header, std::string(40, '\2'));
  const size_t header_end = 8 + header.size();
  std::mt19937 random(20230415);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = good;
    if (round % 4 == 0) {
      bytes.resize(random() % bytes.size());
    } else if (round % 4 == 1) {  // a digit for a digit: offsets and sizes that still parse
      size_t at = random() % header_end;
      while (std::isdigit(static_cast<unsigned char>(bytes[at])) == 0) at = random() % header_end;
      bytes[at] = static_cast<char>('0' + random() % 10);
    } else {
      for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
        bytes[random() % header_end] ^= static_cast<char>(1U << (random() % 8));
      }
    }
    write_bytes(path, bytes);
    refused += survives(path) ? 0 : 1;
  }
  EXPECT_GT(refused, 1500);
}

}  // namespace
}  // namespace emoe::worker
