// Ranks that share weights and layers over real processes, at every number of them that mpirun starts: LoRA
// and full tuning, dense and with experts, in both dtypes, held to the same ranks that each have all.
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/train/checkpoint_model.h"

namespace emoe::worker {
namespace {

struct Method {
  bool full = false;
  int32_t experts = 0;
  at::ScalarType dtype = at::kFloat;
};

class MpiSharing : public ::testing::TestWithParam<Method> {
 protected:
  [[nodiscard]] static testing::TinyRun run(int tensor, bool shard_base) {
    const Method& method = GetParam();
    testing::TinyRun run = testing::standard_run();
    run.model = {.full = method.full,
                 .experts = method.experts,
                 .separated = true,  // no choice turns by rounding
                 .dtype = method.dtype,
                 .shard_base = shard_base,
                 .tensor = tensor};
    run.model.lora.targets = linear_names();
    if (method.full) run.options.learning_rate = 1e-3;
    run.options.batches.max_steps = 3;
    return run;
  }

  // Of `run`, on every rank that of rank 0.
  [[nodiscard]] std::string folder_for_all() {
    return host_->broadcast(host_->rank() == 0 ? dir_.path().string() : "", 0);
  }

  void expect_same_steps(const testing::RankOutcome& a, const testing::RankOutcome& b,
                         double losses) const {
    ASSERT_EQ(a.error, "");
    ASSERT_EQ(b.error, "");
    ASSERT_EQ(a.sink.steps.size(), b.sink.steps.size());
    for (size_t s = 0; s < a.sink.steps.size(); ++s) {
      EXPECT_NEAR(a.sink.steps[s].loss, b.sink.steps[s].loss, losses);
      EXPECT_NEAR(a.sink.steps[s].grad_norm / b.sink.steps[s].grad_norm, 1.0, 10 * losses);
    }
    EXPECT_EQ(a.expert_stats, b.expert_stats);
  }

  [[nodiscard]] double rounding() const { return GetParam().dtype == at::kFloat ? 1e-4 : 3e-3; }

  void expect_near(const at::Tensor& found, const at::Tensor& wanted,
                   const std::string& name) const {
    const double off = (found - wanted).norm().item<double>();
    EXPECT_LT(off, rounding() * (wanted.norm().item<double>() + 1.0)) << name;
  }

  // What the last checkpoint of a full run has against what each rank of `whole` had.
  void expect_stored(const testing::RankOutcome& shared, const testing::RankOutcome& whole) const {
    const auto same = testing::make_tiny_model(run(1, false).model);
    const auto stored = make_checkpoint_model(same->options(), shared.result.checkpoint);
    ASSERT_TRUE(stored.ok()) << stored.status();
    for (const Parameter& parameter : (*stored)->parameters()) {
      const at::Tensor& wanted = whole.whole.at(parameter.name);
      expect_near(parameter.stored(), wanted, parameter.name);
      const auto found = shared.whole.find(parameter.name);  // where ranks share each layer
      if (found == shared.whole.end()) continue;
      EXPECT_TRUE(parameter.stored().equal(found->second)) << parameter.name;
    }
  }

  std::unique_ptr<HostGroup> host_ = make_mpi_group();
  emoe::testing::TempDir dir_;
};

TEST_P(MpiSharing, WeightsAreSharedBitForBitOrToRounding) {
  const auto whole = testing::run_rank(run(1, false), *host_);
  testing::TinyRun sharded = run(1, true);
  if (GetParam().full) sharded.options.checkpoint.folder = folder_for_all();
  const auto shared = testing::run_rank(sharded, *host_);
  if (GetParam().full) {
    expect_same_steps(shared, whole, rounding());
    expect_stored(shared, whole);
  } else {
    expect_same_steps(shared, whole, 0.0);
    testing::expect_same_bits(shared, whole);
  }
  host_->barrier();  // before the folder goes
}

TEST_P(MpiSharing, LayersAreSharedToRounding) {
  if (host_->world_size() % 2 != 0) GTEST_SKIP() << "two ranks share each layer";
  const double off = GetParam().dtype == at::kFloat ? 1e-4 : 0.02;
  const auto whole = testing::run_rank(run(1, false), *host_);
  const std::string folder = folder_for_all();
  testing::RankOutcome before;
  for (const bool shard_base : {false, true}) {
    testing::TinyRun split = run(2, shard_base);
    if (GetParam().full) {
      split.options.checkpoint.folder = folder + (shard_base ? "/sharded" : "/whole");
    }
    const auto shared = testing::run_rank(split, *host_);
    expect_same_steps(shared, whole, off);
    if (GetParam().full) {
      expect_stored(shared, whole);
    } else if (shard_base) {
      testing::expect_same_bits(shared, before);
    } else {
      for (const auto& [name, tensor] : shared.parameters) {  // of adapters every rank has all
        const std::string bytes(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
        EXPECT_EQ(host_->broadcast(bytes, 0), bytes) << name;
      }
    }
    before.parameters = shared.parameters;
  }
  host_->barrier();
}

INSTANTIATE_TEST_SUITE_P(
    Methods, MpiSharing,
    ::testing::Values(Method{}, Method{.experts = 6}, Method{.dtype = at::kBFloat16},
                      Method{.experts = 6, .dtype = at::kBFloat16}, Method{.full = true},
                      Method{.full = true, .experts = 6},
                      Method{.full = true, .dtype = at::kBFloat16},
                      Method{.full = true, .experts = 6, .dtype = at::kBFloat16}),
    [](const auto& test) {
      return std::string(test.param.full ? "full" : "lora") +
             (test.param.experts > 0 ? "Experts" : "") +
             (test.param.dtype == at::kFloat ? "" : "Bf16");
    });

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  emoe::worker::MpiSession session;
  const int result = RUN_ALL_TESTS();
  if (result != 0) std::_Exit(result);  // peers may be stuck waiting for this rank
  return 0;
}
