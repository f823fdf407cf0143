// The whole worker off the CPU, on the fake device (tests/worker/fake_device): what a GPU is asked to do is asked of a
// device that says no to host access, mixed operands and hidden transfers.
#include "tests/worker/fake_device/fake_device.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/eval/generate.h"
#include "worker/model/attention.h"
#include "worker/model/device_kernels.h"

namespace emoe::worker {
namespace {

using testing::RankOutcome;
using testing::standard_run;
using testing::TinyModel;
using testing::TinyRun;

// What operators the tests of this program ran on the device.
std::map<std::string, int64_t>& all_operators() {
  static std::map<std::string, int64_t> operators;
  return operators;
}

testing::FakeDeviceLog take_log() {
  testing::FakeDeviceLog log = testing::take_fake_device_log();
  for (const auto& [name, count] : log.operators) all_operators()[name] += count;
  return log;
}

struct Case {
  TinyModel model;
  bool packing = true;
  std::string name;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const TinyModel& model : testing::tiny_methods(type)) {
      if (model.ffn == "sparse") continue;  // on CPUs alone
      for (const bool packing : {true, false}) {
        std::string name = model.full ? "full" : model.experts > 0 ? "lora_experts" : "lora";
        name += std::string(packing ? "_packed_" : "_padded_") + c10::toString(type);
        all.push_back({model, packing, name});
      }
    }
  }
  return all;
}

class FakeDevice : public ::testing::TestWithParam<Case> {
 protected:
  static TinyRun run_of(const Case& wanted) {
    TinyRun run = standard_run();
    run.model = wanted.model;
    run.options.micro_batches.packing = wanted.packing;
    return run;
  }
};

INSTANTIATE_TEST_SUITE_P(Methods, FakeDevice, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST_P(FakeDevice, TrainsAndEvaluatesAsTheCpu) {
  TinyRun run = run_of(GetParam());
  const RankOutcome cpu = testing::run_ranks(run)[0];
  run.model.device = testing::fake_device();
  (void)take_log();
  const RankOutcome fake = testing::run_ranks(run)[0];
  ASSERT_EQ(fake.error, "");
  const testing::FakeDeviceLog log = take_log();
  const bool half = GetParam().model.dtype == at::kBFloat16;
  for (const char* kernel : {"rms_norm", "rms_norm_backward", "rotary", "swiglu", "swiglu_backward",
                             "losses", "adamw", "squares"}) {
    EXPECT_TRUE(log.kernels.contains(kernel)) << kernel;
  }
  EXPECT_EQ(log.operators.contains("aten::_flash_attention_backward"), half);
  EXPECT_EQ(log.mixes, std::vector<std::string>{});
  // bf16: the CPU's products and attention round elsewhere, and 6 steps are taken at a rate of 1e-2.
  EXPECT_LE(testing::distance(cpu, fake, run.model), half ? 0.3 : 1e-4);
  ASSERT_EQ(fake.sink.steps.size(), cpu.sink.steps.size());
  for (size_t i = 0; i < cpu.sink.steps.size(); ++i) {
    EXPECT_NEAR(fake.sink.steps[i].loss, cpu.sink.steps[i].loss, half ? 0.1 : 1e-4);
  }
  ASSERT_EQ(fake.sink.evals.size(), cpu.sink.evals.size());
  if (!half) {
    EXPECT_EQ(fake.expert_stats, cpu.expert_stats);
  }
}

// A transfer makes the host wait, and the GPU then waits for the host: a number that may only fall.
TEST_P(FakeDevice, StepsKeepTheirBudgetOfTransfers) {
  TinyRun run = run_of(GetParam());
  run.model.device = testing::fake_device();
  run.eval.clear();
  int64_t micro_batches = 0;
  testing::FakeDeviceLog step;
  run.on_phase = [&](int /*rank*/, Phase phase, Decoder& /*model*/) {
    if (phase == Phase::forward) ++micro_batches;
    if (phase == Phase::data) {
      micro_batches = 0;
      (void)take_log();
    }
    if (phase == Phase::optimizer) step = take_log();
  };
  run.options.batches.max_steps = 2;
  ASSERT_EQ(testing::run_ranks(run)[0].error, "");
  ASSERT_GT(micro_batches, 1);
  // Each micro-batch: what it reads, at once; with padding and experts also which tokens count. A step: the notes of
  // the ranks there; back the loss, the gradients' norm, these notes, and with experts their counts.
  const bool experts = GetParam().model.experts > 0;
  EXPECT_LE(step.uploads, micro_batches * (experts && !GetParam().packing ? 2 : 1) + 1);
  EXPECT_LE(step.downloads, experts ? 4 : 3);
}

TEST_P(FakeDevice, ResumesItsCheckpointBitForBit) {
  TinyRun run = run_of(GetParam());
  run.model.device = testing::fake_device();
  const RankOutcome whole = testing::run_ranks(run)[0];
  const emoe::testing::TempDir folder;
  run.options.checkpoint.folder = folder.path();
  run.options.checkpoint.every_steps = 2;
  run.stop = [](int /*rank*/, int64_t edge) {
    return edge == 2 ? StopRequest::checkpoint_and_stop : StopRequest::none;
  };
  const RankOutcome first = testing::run_ranks(run)[0];
  ASSERT_EQ(first.error, "");
  ASSERT_EQ(first.result.end, TrainEnd::preempted);
  run.stop = nullptr;
  run.options.checkpoint.resume = true;
  const RankOutcome second = testing::run_ranks(run)[0];
  ASSERT_EQ(second.error, "");
  EXPECT_EQ(second.result.first_step, first.result.steps_done);
  testing::expect_same_bits(whole, second);
}

TEST_P(FakeDevice, GeneratesWhatTheCpuGenerates) {
  TinyModel tiny = GetParam().model;
  if (tiny.dtype == at::kBFloat16) GTEST_SKIP() << "near ties round otherwise";
  const auto generated = [&](at::Device device) {
    tiny.device = device;
    const auto model = testing::make_tiny_model(tiny);
    return generate(*model, {1, 5, 6, 7}, {.max_new_tokens = 12}, ForwardOptions{}).ids;
  };
  const auto wanted = generated(at::kCPU);
  EXPECT_EQ(generated(testing::fake_device()), wanted);
}

// By LibTorch's operators alone, as on a device without kernels of ours.
TEST(FakeDeviceWithoutKernels, TrainsAsTheCpu) {
  TinyRun run = standard_run();
  run.model = testing::tiny_methods()[1];
  const RankOutcome cpu = testing::run_ranks(run)[0];
  run.model.device = testing::fake_device();
  const DeviceKernels* kernels = kernels_for(at::empty({1}, at::TensorOptions(run.model.device)));
  use_device_kernels(run.model.device.type(), nullptr);
  const RankOutcome fake = testing::run_ranks(run)[0];
  use_device_kernels(run.model.device.type(), kernels);
  ASSERT_EQ(fake.error, "");
  EXPECT_LE(testing::distance(cpu, fake, run.model), 1e-4);
  EXPECT_EQ(take_log().mixes, std::vector<std::string>{});
}

// The call of flash attention: segments, windows, heads that share keys.
TEST(FakeDeviceAttention, IsThatOfTheCpu) {
  at::manual_seed(3);
  const at::Device device = testing::fake_device();
  const std::vector<int64_t> lengths = {5, 1, 9};
  for (const int64_t window : {0, 3}) {
    std::vector<at::Tensor> results;
    const at::Tensor dy = at::randn({15, 4, 8}).to(at::kBFloat16);
    const std::vector<at::Tensor> in = {at::randn({15, 4, 8}), at::randn({15, 2, 8}),
                                        at::randn({15, 2, 8})};
    for (const bool there : {false, true}) {
      std::vector<at::Tensor> x;
      for (const at::Tensor& tensor : in) {
        const at::Tensor half = tensor.to(at::kBFloat16);
        x.push_back((there ? half.to(device) : half.to(at::kFloat)).requires_grad_());
      }
      const at::Tensor y = segment_attention(x[0], x[1], x[2], lengths, window);
      y.backward(there ? dy.to(device) : dy.to(at::kFloat));
      for (const at::Tensor& tensor : {y, x[0].grad(), x[1].grad(), x[2].grad()}) {
        results.push_back(tensor.detach().cpu().to(at::kFloat));
      }
    }
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_LE((results[i] - results[i + 4]).abs().max().item<double>(), 0.05) << i;
    }
  }
  EXPECT_GT(take_log().operators.count("aten::_flash_attention_backward"), 0U);
}

// Planted errors are found: else the tests above prove nothing.
TEST(FakeDeviceItself, FindsWhatAGpuWouldNotForgive) {
  const at::Device device = testing::fake_device();
  (void)take_log();
  const at::Tensor there = at::ones({3, 3}, at::TensorOptions(device));
  (void)at::mm(there, at::ones({3, 3}));
  EXPECT_EQ(take_log().mixes,
            std::vector<std::string>{"aten::mm.out with a tensor of the host, CPUFloatType"});
  EXPECT_EQ(there.sum().item<float>(), 9.0F);
  EXPECT_EQ(take_log().downloads, 1);
  EXPECT_TRUE(at::empty({4}, at::TensorOptions(device)).cpu().isnan().all().item<bool>());
  const volatile float* touched = there.const_data_ptr<float>();
  EXPECT_DEATH((void)*touched, "host code touched memory of the fake device");
}

// When all tests are done: loads LibTorch's CUDA part, where it is there, and asks it for each operator that they used.
class EveryOperatorHasACudaKernel : public ::testing::Environment {
 public:
  void TearDown() override {
    (void)take_log();
    try {
      cuda::load();
    } catch (const std::runtime_error& error) {
      std::printf("operators not looked up: %s\n", error.what());
      return;
    }
    for (const auto& [name, count] : all_operators()) {
      EXPECT_TRUE(has_cuda_kernel(name)) << name << " has no kernel for GPUs";
    }
    std::printf("%zu operators, each with a kernel for GPUs\n", all_operators().size());
  }

 private:
  static bool has_cuda_kernel(const std::string& name) {
    const size_t dot = name.find('.');
    const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    const auto found = c10::Dispatcher::singleton().findSchema({name.substr(0, dot), overload});
    if (!found) return false;
    for (const auto key : {c10::DispatchKey::CUDA, c10::DispatchKey::CompositeExplicitAutograd,
                           c10::DispatchKey::CompositeExplicitAutogradNonFunctional}) {
      if (found->hasKernelForDispatchKey(key)) return true;
    }
    return false;
  }
};
const auto* const kAtTheEnd = ::testing::AddGlobalTestEnvironment(new EveryOperatorHasACudaKernel);

}  // namespace
}  // namespace emoe::worker
