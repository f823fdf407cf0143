// The reference's training cases, computed by transformers + PEFT: loss, gradient norm and rate of
// every step, evaluations, expert counts. The script tests of tests/reference run the same cases
// through the program; this one is quick to debug.
#include <cmath>
#include <fstream>
#include <thread>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include "tests/support/reference_folder.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/comm/loopback_group.h"
#include "tests/worker/train/tiny_run.h"
#include "text/dataset.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

using nlohmann::json;

// Relative; tests/reference/tolerances.py says why.
constexpr double kLoss = 1e-5;
constexpr double kNorm = 1e-4;
constexpr double kLossAfterATie = 5e-4;
constexpr double kNormAfterATie = 1e-3;

double relative(double ours, double golden) {
  return std::abs(ours - golden) / std::abs(golden);
}

struct Case {
  std::string name;
  int world_size = 1;
  MicroBatchOptions micro_batches;
  std::string ffn = "masked";
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name << " at " << c.world_size << " " << c.ffn;
}

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return json::parse(file);
}

class NeverStop final : public StopSource {
 public:
  [[nodiscard]] StopRequest poll() override { return StopRequest::none; }
};

class GoldenTraining : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    EMOE_SKIP_WITHOUT_REFERENCE();
    folder_ = emoe::testing::reference_folder() / "reference" / "golden" / GetParam().name;
    at::set_num_threads(1);
    config_ = YAML::LoadFile(folder_ / "config.yaml");
    result_ = read_json(folder_ / "result.json");
    model_folder_ = folder_ / config_["model"].as<std::string>();
  }

  std::vector<Row> rows(const char* start, const char* count) {
    // All cases are of one file; it takes longer to parse than some cases to train.
    static const json all = read_json(folder_ / config_["data"].as<std::string>());
    json part = json::array();
    const auto first = config_[start].as<size_t>();
    for (size_t i = 0; i < config_[count].as<size_t>(); ++i) part.push_back(all.at(first + i));
    const auto file = dir_.path() / (std::string(start) + ".json");
    std::ofstream(file) << part.dump();
    const auto tokenizer = load_tokenizer(model_folder_).value();
    return load_dataset({.files = {{file}}, .max_length = config_["max_length"].as<int64_t>()},
                        *tokenizer)
        .value()
        .rows;
  }

  EmoeOptions emoe() const {
    EmoeOptions options;
    if (!config_["experts"]) return options;
    const json experts = read_json(folder_ / config_["experts"].as<std::string>());
    options.routing = {.num_experts = experts["num_experts"],
                       .top_k = config_["num_selected"].as<int64_t>()};
    for (const auto& layer : config_["layers"].as<std::vector<size_t>>()) {
      Partition partition;
      partition.num_experts = experts["num_experts"];
      partition.labels = experts["labels"][layer].get<std::vector<int32_t>>();
      options.partitions[static_cast<int64_t>(layer)] = partition;
    }
    return options;
  }

  std::unique_ptr<Decoder> model() const {
    const auto base = BaseWeights::open(model_folder_).value();
    ModelOptions options;
    options.config = base.config();
    options.emoe = emoe();
    options.ffn = GetParam().ffn;
    options.full = !config_["lora"];
    if (options.full) return std::make_unique<Decoder>(options, base.source());
    const auto adapter = read_peft_adapter(folder_ / "init_adapter", options.config).value();
    options.lora = adapter.lora;
    options.lora.dropout = 0.0;
    auto llama = std::make_unique<Decoder>(options, base.source());
    EXPECT_TRUE(load_peft_adapter(adapter, *llama).ok());
    return llama;
  }

  TrainOptions options() const {
    TrainOptions options;
    options.batches = {.global_batch = config_["global_batch_size"].as<int64_t>(),
                       .max_steps = config_["max_steps"].as<int64_t>(),
                       .drop_last = true,
                       .shuffle = false};
    options.loss_reduction = config_["loss_reduction"].as<std::string>() == "example"
                                 ? LossReduction::example
                                 : LossReduction::token;
    options.micro_batches = GetParam().micro_batches;
    options.adamw.weight_decay = config_["weight_decay"].as<double>();
    options.adamw.max_grad_norm = config_["max_grad_norm"].as<double>();
    options.schedule = config_["lr_scheduler_type"].as<std::string>() == "cosine"
                           ? ScheduleKind::cosine
                           : ScheduleKind::constant;
    options.learning_rate = config_["learning_rate"].as<double>();
    options.warmup_ratio = config_["warmup_ratio"].as<double>();
    return options;
  }

  void run() {
    const auto train = rows("data_start", "data_count");
    const auto eval = rows("eval_start", "eval_count");
    auto hosts = testing::make_loopback_group(GetParam().world_size);
    std::vector<testing::RecordingSink> sinks(hosts.size());
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < hosts.size(); ++rank) {
      threads.emplace_back([&, rank] {
        const auto llama = model();
        NeverStop stop;
        const SystemClock clock;
        const auto device = make_cpu_group(*hosts[rank]);
        Trainer trainer(options(),
                        {*llama, *hosts[rank], *device, sinks[rank], stop, clock, train, eval});
        (void)trainer.run();
      });
    }
    threads.clear();
    sink_ = std::move(sinks[0]);
  }

  [[nodiscard]] double loss_off(size_t i) const {
    return relative(sink_.steps[i].loss, result_["steps"][i]["loss"]);
  }
  [[nodiscard]] double norm_off(size_t i) const {
    return relative(sink_.steps[i].grad_norm, result_["steps"][i]["grad_norm"]);
  }

  // The step at which our run left the golden one, if a golden choice hung on a margin below 1e-6
  // there; past the last step otherwise. tests/reference/tolerances.py says what a token that
  // chooses otherwise changes.
  [[nodiscard]] size_t tie_met() const {
    const json& steps = result_["steps"];
    for (size_t i = 0; i < steps.size(); ++i) {
      if (loss_off(i) <= kLoss && norm_off(i) <= kNorm) continue;
      return steps[i].value("margins_below_1e_6", 0) > 0 ? i : steps.size();
    }
    return steps.size();
  }

  void expect_evaluation(const EvalRecord& record, const json& golden) const {
    const double loss = golden["loss"];
    EXPECT_LE(relative(record.loss, loss), kLoss) << "step " << record.step;
    EXPECT_LE(relative(record.loss_dense, golden.value("loss_mask_off", loss)), kLoss)
        << "mask off, step " << record.step;
  }

  emoe::testing::TempDir dir_;
  std::filesystem::path folder_;
  std::filesystem::path model_folder_;
  YAML::Node config_;
  json result_;
  testing::RecordingSink sink_;
};

TEST_P(GoldenTraining, EqualsTheReference) {
  run();
  const json& steps = result_["steps"];
  ASSERT_EQ(sink_.steps.size(), steps.size());
  const size_t tie = tie_met();
  double worst_loss = 0.0;
  double worst_norm = 0.0;
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_LE(loss_off(i), i < tie ? kLoss : kLossAfterATie) << "step " << i;
    EXPECT_LE(norm_off(i), i < tie ? kNorm : kNormAfterATie) << "step " << i;
    EXPECT_NEAR(sink_.steps[i].learning_rate, steps[i]["lr"].get<double>(), 1e-9);
    EXPECT_EQ(sink_.steps[i].target_tokens, steps[i]["target_tokens"].get<int64_t>());
    worst_loss = std::max(worst_loss, loss_off(i));
    worst_norm = std::max(worst_norm, norm_off(i));
  }
  ASSERT_EQ(sink_.evals.size(), 2);
  expect_evaluation(sink_.evals[0], result_["eval_initial"]);
  expect_evaluation(sink_.evals[1], result_["eval_final"]);
  std::printf("worst relative deviation: loss %.2g, gradient norm %.2g%s\n", worst_loss, worst_norm,
              tie < steps.size() ? "; a token near a tie chose otherwise" : "");
}

constexpr MicroBatchOptions kPadded{.max_tokens = 2048, .packing = false};
constexpr MicroBatchOptions kPacked{.max_tokens = 700, .packing = true};
constexpr MicroBatchOptions kShared{.max_tokens = 700, .packing = true, .share_prefixes = true};
INSTANTIATE_TEST_SUITE_P(
    Cases, GoldenTraining,
    ::testing::Values(Case{"lora-qv", 2, kPacked}, Case{"lora-example-reduction", 2, kPacked},
                      Case{"full", 2, kPacked}, Case{"emoe-lora-qv", 1, kPacked},
                      Case{"emoe-lora-all", 1, kPadded}, Case{"emoe-lora-all", 4, kPacked},
                      Case{"emoe-lora-all-n43", 2, kPacked}, Case{"emoe-full", 2, kPacked},
                      Case{"emoe-lora-all", 2, kPacked, "sparse"},
                      Case{"emoe-lora-all-n43", 1, kPacked, "sparse"},
                      Case{"emoe-full", 2, kPacked, "sparse"}, Case{"lora-qv", 1, kShared},
                      Case{"full", 2, kShared}, Case{"emoe-lora-all", 1, kShared, "sparse"}));

}  // namespace
}  // namespace emoe::worker
