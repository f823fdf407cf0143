// Inertia against the reference's k-means-constrained (partition-n4, -n43, -n86): at most 1 % above
// on every layer.
#include <cstring>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/support/reference_folder.h"
#include "worker/emoe/partition.h"

namespace emoe::worker {
namespace {

using nlohmann::json;

struct Weights {
  std::vector<float> rows;
  int64_t d_ff = 0;
  int64_t hidden = 0;
};

// gate_proj of a layer, read straight from the safetensors file: this test needs no tensor library.
Weights read_gate(const std::string& file, int64_t layer) {
  uint64_t header_size = 0;
  std::memcpy(&header_size, file.data(), sizeof header_size);
  const json header = json::parse(file.substr(8, header_size));
  const json& entry = header["model.layers." + std::to_string(layer) + ".mlp.gate_proj.weight"];
  EXPECT_EQ(entry["dtype"], "F32");
  Weights weights{.d_ff = entry["shape"][0], .hidden = entry["shape"][1]};
  weights.rows.resize(static_cast<size_t>(weights.d_ff * weights.hidden));
  std::memcpy(weights.rows.data(),
              file.data() + 8 + header_size + entry["data_offsets"][0].get<size_t>(),
              weights.rows.size() * sizeof(float));
  return weights;
}

class GoldenPartition : public ::testing::TestWithParam<int> {};

TEST_P(GoldenPartition, inertia_reaches_the_reference_on_every_layer) {
  EMOE_SKIP_WITHOUT_REFERENCE();
  const std::string name = "partition-n" + std::to_string(GetParam());
  const json golden = json::parse(
      *read_file(testing::reference_folder() / "reference/golden" / name / "experts.json"));
  const std::string model =
      *read_file(testing::reference_folder() / "data/models/stories260K/model.safetensors");
  ASSERT_EQ(golden["inertia"].size(), 5u);
  for (size_t layer = 0; layer < golden["inertia"].size(); ++layer) {
    const Weights weights = read_gate(model, static_cast<int64_t>(layer));
    const Result<Partition> partition =
        make_partition(weights.rows, weights.d_ff, weights.hidden,
                       {.num_experts = GetParam(), .layer = static_cast<int64_t>(layer)});
    ASSERT_TRUE(partition.ok()) << partition.status();
    const auto expected = golden["inertia"][layer].get<double>();
    EXPECT_LE(partition->inertia, expected * 1.01) << name << " layer " << layer;
    std::printf("%s layer %zu: inertia %.3f, reference %.3f (%+.2f %%)\n", name.c_str(), layer,
                partition->inertia, expected, 100.0 * (partition->inertia / expected - 1.0));
    // The reference's own labels have the inertia it says: both measure the same thing.
    Partition theirs{.num_experts = GetParam(), .labels = golden["labels"][layer]};
    EXPECT_TRUE(check_labels(theirs, weights.d_ff).ok());
  }
}

TEST_P(GoldenPartition, contiguous_inertia_equals_the_reference) {
  EMOE_SKIP_WITHOUT_REFERENCE();
  const std::string name = "partition-n" + std::to_string(GetParam());
  const json golden = json::parse(
      *read_file(testing::reference_folder() / "reference/golden" / name / "experts.json"));
  const std::string model =
      *read_file(testing::reference_folder() / "data/models/stories260K/model.safetensors");
  for (size_t layer = 0; layer < golden["inertia_contiguous"].size(); ++layer) {
    const Weights weights = read_gate(model, static_cast<int64_t>(layer));
    const Result<Partition> partition =
        make_partition(weights.rows, weights.d_ff, weights.hidden,
                       {.num_experts = GetParam(), .method = "contiguous"});
    ASSERT_TRUE(partition.ok()) << partition.status();
    EXPECT_NEAR(partition->inertia, golden["inertia_contiguous"][layer].get<double>(), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, GoldenPartition, ::testing::Values(4, 43, 86));

}  // namespace
}  // namespace emoe::worker
