// The whole worker off the CPU, on the fake device (tests/worker/fake_device): what a GPU is asked to do is asked of a
// device that says no to host access, mixed operands and hidden transfers.
#include "tests/worker/fake_device/fake_device.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/device/device_memory.h"
#include "worker/device/tensor_memory.h"
#include "worker/eval/generate.h"
#include "worker/model/attention.h"
#include "worker/model/device_kernels.h"
#include "worker/model/staged_upload.h"

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
  EXPECT_EQ(log.operators.contains("aten::_efficient_attention_backward"), !half);
  // What a micro-batch adds to the gradients of trained weights is added in the product.
  EXPECT_EQ(log.operators.contains("aten::addmm.dtype_out"), half && GetParam().model.full);
  EXPECT_EQ(log.mixes, std::vector<std::string>{});
  EXPECT_EQ(log.converted, 0) << "a GPU would wait until the host has converted";
  EXPECT_EQ(log.pageable, 0) << "copies that are not to be waited for need pinned memory";
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

TEST_P(FakeDevice, LayersComputedAgainChangeNoBit) {
  TinyRun run = run_of(GetParam());
  run.model.device = testing::fake_device();
  run.model.layers = 3;
  const RankOutcome kept = testing::run_ranks(run)[0];
  run.model.recompute = true;
  const RankOutcome again = testing::run_ranks(run)[0];
  ASSERT_EQ(again.error, "");
  testing::expect_same_bits(kept, again);
  EXPECT_EQ(kept.expert_stats, again.expert_stats);
}

// A checkpoint goes to the disk tensor by tensor: the host never has all of it.
TEST_P(FakeDevice, CheckpointsPassThroughTwoBuffers) {
  TinyRun run = run_of(GetParam());
  if (!run.model.full) GTEST_SKIP() << "an adapter is copied at once, so that the run goes on";
  run.model.device = testing::fake_device();
  run.model.layers = 6;
  run.eval.clear();
  run.options.batches.max_steps = 1;
  const emoe::testing::TempDir folder;
  run.options.checkpoint.folder = folder.path();
  run.options.checkpoint.every_steps = 1;
  std::optional<TensorMemory> memory;
  int64_t state = 0;
  int64_t largest = 0;
  int64_t peak = 0;
  run.on_phase = [&](int /*rank*/, Phase phase, Decoder& model) {
    if (phase != Phase::checkpoint) return;
    for (const Parameter& parameter : model.parameters()) {
      const auto bytes = static_cast<int64_t>(parameter.tensor.nbytes());
      state += 3 * bytes;
      largest = std::max(largest, bytes);
    }
    (void)take_log();
    memory.emplace();
  };
  run.on_work_done = [&](int /*rank*/) {
    if (memory) peak = std::max(peak, memory->peak());
  };
  // The counter is the thread's that made it.
  run.on_end = [&](int /*rank*/) { memory.reset(); };
  ASSERT_EQ(testing::run_ranks(run)[0].error, "");
  ASSERT_GT(state, 0);
  EXPECT_GT(peak, 0);
  EXPECT_LT(peak, state / 3) << "of " << state << " bytes";
  const testing::FakeDeviceLog log = take_log();
  EXPECT_GT(log.pinned, largest);
  EXPECT_LE(log.pinned, 2 * largest);
  EXPECT_EQ(log.pageable, 0);
  EXPECT_GT(log.downloads, 0);
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

// The calls of LibTorch's attention: segments, windows, heads that share keys.
TEST(FakeDeviceAttention, IsThatOfTheCpu) {
  at::manual_seed(3);
  const at::Device device = testing::fake_device();
  const std::vector<int64_t> lengths = {5, 1, 9};
  for (const auto& [type, window] : {std::pair(at::kBFloat16, 0), std::pair(at::kBFloat16, 3),
                                     std::pair(at::kFloat, 0), std::pair(at::kFloat, 3)}) {
    std::vector<at::Tensor> results;
    const at::Tensor dy = at::randn({15, 4, 8}).to(at::kBFloat16);
    const std::vector<at::Tensor> in = {at::randn({15, 4, 8}), at::randn({15, 2, 8}),
                                        at::randn({15, 2, 8})};
    for (const bool there : {false, true}) {
      std::vector<at::Tensor> x;
      for (const at::Tensor& tensor : in) {
        const at::Tensor half = tensor.to(at::kBFloat16);
        x.push_back((there ? half.to(type).to(device) : half.to(at::kFloat)).requires_grad_());
      }
      const at::Tensor y = segment_attention(x[0], x[1], x[2], lengths, window);
      y.backward(there ? dy.to(type).to(device) : dy.to(at::kFloat));
      for (const at::Tensor& tensor : {y, x[0].grad(), x[1].grad(), x[2].grad()}) {
        results.push_back(tensor.detach().cpu().to(at::kFloat));
      }
    }
    for (size_t i = 0; i < 4; ++i) {
      const double most = (results[i] - results[i + 4]).abs().max().item<double>();
      EXPECT_LE(most, type == at::kFloat ? 1e-5 : 0.05) << i;
    }
  }
  const auto log = take_log();
  EXPECT_GT(log.operators.count("aten::_flash_attention_backward"), 0U);
  EXPECT_EQ(log.operators.at("aten::_efficient_attention_backward"), 1);
}

TEST(FakeDeviceUpload, PassesThroughBuffersAsItIs) {
  const at::Device device = testing::fake_device();
  const at::Tensor large = at::arange(20'000'000, at::kInt).view({5000, 4000});  // 80 MB
  StagedUpload upload(device);
  (void)take_log();
  const at::Tensor there = upload.send(large);
  const testing::FakeDeviceLog log = take_log();
  EXPECT_TRUE(at::equal(there.cpu(), large));
  EXPECT_EQ(log.uploads, 3);
  EXPECT_LE(log.most_uploaded, 32 << 20);
  EXPECT_EQ(log.pageable, 0);
  EXPECT_TRUE(at::equal(upload.send(large.t()).cpu(), large.t()));
  EXPECT_EQ(upload.send(at::empty({0, 4}, at::kBFloat16)).sizes(), (std::vector<int64_t>{0, 4}));
  EXPECT_TRUE(upload.send(there).is_same(there)) << "it is there";
  EXPECT_TRUE(StagedUpload(at::kCPU).send(large).is_same(large));
  (void)take_log();
}

// Whatever the files and the computation have, no weight is converted on its way.
TEST(FakeDeviceUpload, WeightsTravelAsTheyAreStored) {
  for (const at::ScalarType stored : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const bool full : {false, true}) {
      TinyModel tiny{.full = full, .experts = 6, .dtype = at::kBFloat16, .stored = stored};
      const auto on_cpu = testing::make_tiny_model(tiny);
      tiny.device = testing::fake_device();
      (void)take_log();
      const auto there = testing::make_tiny_model(tiny);
      const testing::FakeDeviceLog log = take_log();
      EXPECT_GT(log.uploads, 0);
      EXPECT_EQ(log.converted, 0);
      EXPECT_EQ(log.pageable, 0);
      for (size_t i = 0; i < on_cpu->parameters().size(); ++i) {
        EXPECT_TRUE(at::equal(there->parameters()[i].tensor.detach().cpu(),
                              on_cpu->parameters()[i].tensor.detach()))
            << on_cpu->parameters()[i].name;
      }
    }
  }
  (void)take_log();
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
  const at::Tensor pageable = at::ones({4});
  (void)pageable.to(device, /*non_blocking=*/true);
  (void)pageable.to(device, at::kBFloat16);
  const testing::FakeDeviceLog log = take_log();
  EXPECT_EQ(log.pageable, 1);
  EXPECT_EQ(log.converted, 1);
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

// What a rank tells of its GPU's memory comes through the interface that every device's allocator has.
TEST(FakeDevice, TellsHowMuchOfItsMemoryIsTaken) {
  const at::Device device = testing::fake_device();
  const auto before = device_memory(device);
  ASSERT_TRUE(before);
  constexpr int64_t kBytes = 64 << 20;
  {
    const at::Tensor tensor = at::empty({kBytes / 4}, at::device(device).dtype(at::kFloat));
    EXPECT_EQ(device_memory(device)->allocated, before->allocated + kBytes);
  }
  const auto after = device_memory(device);
  EXPECT_EQ(after->allocated, before->allocated);
  EXPECT_GE(after->peak_allocated, before->allocated + kBytes);
  EXPECT_GE(after->peak_reserved, after->peak_allocated);
  EXPECT_GE(after->reserved, kBytes) << "kept for the next tensor";
  EXPECT_FALSE(device_memory(at::kCPU)) << "nothing counts there";
}

}  // namespace
}  // namespace emoe::worker
