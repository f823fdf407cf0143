// Logits and chosen experts of the reference's cases forward-*, computed by stock transformers.
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/reference_folder.h"
#include "tests/worker/model/engine_fixture.h"
#include "worker/model/decoder.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

using nlohmann::json;

// tests/reference/tolerances.py says why.
constexpr double kLogitsTolerance = 2e-4;
constexpr double kMarginOfDoubt = 1e-5;

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return json::parse(file);
}

struct Case {
  std::string folder;
  std::string partition;  // "": dense only
  std::vector<int64_t> layers;
  int32_t top_k = 0;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.folder;
}

class GoldenForward : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    EMOE_SKIP_WITHOUT_REFERENCE();
    result_ = read_json(golden() / GetParam().folder / "result.json");
  }
  [[nodiscard]] static std::filesystem::path golden() {
    return emoe::testing::reference_folder() / "reference" / "golden";
  }
  [[nodiscard]] static Decoder model(const EmoeOptions& emoe, const std::string& ffn = "masked") {
    const auto folder = emoe::testing::reference_folder() / "data" / "models" / "stories260K";
    ModelOptions options;
    options.config = DecoderConfig::read(folder / "config.json").value();
    options.emoe = emoe;
    options.ffn = ffn;
    const WeightFolder weights = WeightFolder::open(folder).value();
    return {options, [&](const std::string& name, const std::vector<int64_t>& shape) {
              return weights.tensor(name, shape).value();
            }};
  }
  [[nodiscard]] static EmoeOptions emoe(Selector selector) {
    const json experts = read_json(golden() / GetParam().partition / "experts.json");
    EmoeOptions options;
    options.routing = {experts["num_experts"], GetParam().top_k, selector};
    for (const int64_t layer : GetParam().layers) {
      Partition partition;
      partition.num_experts = experts["num_experts"];
      partition.labels = experts["labels"][static_cast<size_t>(layer)].get<std::vector<int32_t>>();
      options.partitions[layer] = partition;
    }
    return options;
  }
  [[nodiscard]] PackedBatch prompt() const {
    PackedBatch batch;
    batch.ids = result_["ids"].get<std::vector<int64_t>>();
    const auto tokens = static_cast<int64_t>(batch.ids.size());
    for (int64_t t = 0; t < tokens; ++t) batch.positions.push_back(t);
    batch.targets.assign(batch.ids.size(), -1);
    batch.weights.assign(batch.ids.size(), 0.0F);
    batch.segment_starts = {0, tokens};
    batch.row_keys = {0};
    return batch;
  }
  void expect_logits(const at::Tensor& logits, const std::string& name) const {
    const auto file =
        SafetensorsFile::open(golden() / GetParam().folder / "logits.safetensors").value();
    const double difference = testing::max_difference(logits, file.tensor(name).value());
    EXPECT_LT(difference, kLogitsTolerance) << name;
    RecordProperty(name + "_max_difference", std::to_string(difference));
  }
  void expect_choice(const ExpertChoice& choice, const json& golden_result) const {
    const std::string layer = std::to_string(choice.layer);
    const json& chosen = golden_result["chosen"][layer];
    const at::Tensor ours = expert_indices(choice.selection.mask);
    for (size_t t = 0; t < chosen.size(); ++t) {
      if (golden_result["margin"][layer][t].get<double>() <= kMarginOfDoubt) continue;
      const auto expected = chosen[t].get<std::vector<int32_t>>();
      EXPECT_TRUE(at::equal(ours[static_cast<int64_t>(t)], at::tensor(expected, at::kInt)))
          << "layer " << layer << " token " << t;
    }
  }

  json result_;
};

TEST_P(GoldenForward, DenseLogits) {
  Decoder dense = model({});
  expect_logits(dense.logits(prompt(), {}), "dense");
  if (GetParam().partition.empty()) return;
  Decoder converted = model(emoe(Selector::top));
  ForwardOptions off;
  off.experts_on = false;
  expect_logits(converted.logits(prompt(), off), "dense");
}

TEST_P(GoldenForward, MaskedLogitsAndChosenExperts) {
  const std::map<std::string, Selector> selectors = {
      {"top", Selector::top}, {"bottom", Selector::bottom}, {"not_top", Selector::not_top}};
  for (const auto& [name, selector] : selectors) {
    if (!result_.contains(name)) continue;
    for (const char* ffn : {"masked", "sparse"}) {
      Decoder masked = model(emoe(selector), ffn);
      size_t seen = 0;
      ForwardOptions forward;
      const json& expected = result_[name];
      forward.on_choice = [&](const ExpertChoice& choice) {
        ++seen;
        expect_choice(choice, expected);
      };
      expect_logits(masked.logits(prompt(), forward), name);
      EXPECT_EQ(seen, GetParam().layers.size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, GoldenForward,
    ::testing::Values(Case{"forward-dense", "", {}, 0},
                      Case{"forward-emoe-n4", "partition-n4", {2, 4}, 2},
                      Case{"forward-emoe-n43", "partition-n43", {0, 1, 2, 3, 4}, 11},
                      Case{"forward-emoe-n86", "partition-n86", {2, 4}, 20},
                      Case{"forward-selectors", "partition-n4", {2, 4}, 1}),
    [](const auto& param_info) {
      std::string name = param_info.param.folder;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace emoe::worker
