#include "tests/worker/model/engine_fixture.h"

#include <cstdlib>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "tests/format/tiny_config.h"

namespace emoe::worker::testing {
namespace {

constexpr int64_t kConverted[] = {0, 2};

}  // namespace

EngineFixture::EngineFixture(const std::string& name) {
  const char* source = std::getenv("EMOE_SOURCE_DIR");
  const std::string root = source != nullptr ? source : ".";
  auto file = SafetensorsFile::open(root + "/tests/worker/model/data/" + name + ".safetensors");
  if (!file.ok()) throw std::runtime_error(std::string(file.status().message()));
  file_ = std::move(file).value();
}

at::Tensor EngineFixture::tensor(const std::string& name) const {
  auto tensor = file_->tensor(name);
  if (!tensor.ok()) throw std::runtime_error(std::string(tensor.status().message()));
  return tensor.value().clone();
}

DecoderConfig EngineFixture::config(const std::string& name) {
  DecoderConfig config = emoe::testing::tiny_config(
      {.hidden = 16, .d_ff = 36, .vocab = 40, .positions = 64, .tied = true});
  config.rms_norm_eps = 1e-5;
  if (name == "uneven") {
    config.head_dim = 6;
    config.rms_norm_eps = 1e-6;
    config.rope.theta = 5e5;
    config.tie_word_embeddings = false;
  }
  return config;
}

EmoeOptions EngineFixture::emoe(Selector selector, int32_t top_k) const {
  EmoeOptions options;
  options.routing = {6, top_k, selector};
  const at::Tensor labels = tensor("labels");
  for (int64_t slot = 0; slot < 2; ++slot) {
    Partition partition;
    partition.num_experts = 6;
    for (int64_t c = 0; c < 36; ++c) {
      partition.labels.push_back(labels[slot][c].item<int32_t>());
    }
    options.partitions[kConverted[slot]] = partition;
  }
  return options;
}

LoraOptions EngineFixture::lora() {
  LoraOptions lora;
  lora.rank = 2;
  lora.alpha = 4.0;
  lora.targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  return lora;
}

WeightSource EngineFixture::base() const {
  return [this](const std::string& name, const std::vector<int64_t>&) {
    return tensor("base/" + name);
  };
}

void EngineFixture::load_adapter(Decoder& model) const {
  const at::NoGradGuard no_grad;
  for (auto& parameter : model.parameters()) {
    parameter.tensor.copy_(parameter.to_memory(tensor("adapter/" + parameter.name)));
  }
}

EngineFixture::RowTokens EngineFixture::row(int64_t index) const {
  static constexpr int64_t kLengths[] = {10, 6, 10, 8};
  const at::Tensor ids = tensor("ids");
  const at::Tensor targets = tensor("targets");
  RowTokens row;
  for (int64_t t = 0; t < kLengths[index]; ++t) {
    row.ids.push_back(ids[index][t].item<int64_t>());
    row.targets.push_back(targets[index][t].item<int64_t>());
  }
  return row;
}

PackedBatch EngineFixture::batch(const std::vector<int64_t>& rows,
                                 std::optional<int64_t> padded_length) const {
  const auto all_targets = static_cast<float>((tensor("targets") >= 0).sum().item<int64_t>());
  PackedBatch batch;
  batch.segment_starts = {0};
  for (const int64_t index : rows) {
    RowTokens tokens = row(index);
    batch.real_tokens += static_cast<int64_t>(tokens.ids.size());
    if (padded_length) {
      tokens.ids.resize(static_cast<size_t>(*padded_length), 0);
      tokens.targets.resize(static_cast<size_t>(*padded_length), -1);
    }
    for (size_t t = 0; t < tokens.ids.size(); ++t) {
      batch.ids.push_back(tokens.ids[t]);
      batch.positions.push_back(static_cast<int64_t>(t));
      batch.targets.push_back(tokens.targets[t]);
      batch.weights.push_back(tokens.targets[t] >= 0 ? 1.0F / all_targets : 0.0F);
    }
    batch.segment_starts.push_back(static_cast<int64_t>(batch.ids.size()));
    batch.row_keys.push_back(1000 + index);
  }
  return batch;
}

double max_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return max_difference(a, b) / (b.detach().abs().max().item<double>() + 1e-30);
}

}  // namespace emoe::worker::testing
