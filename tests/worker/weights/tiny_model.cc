#include "tests/worker/weights/tiny_model.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "base/check.h"
#include "base/file.h"
#include "format/dtype.h"
#include "format/tensor_table.h"
#include "tests/format/sentencepiece_bytes.h"
#include "worker/tensor/sharded_writer.h"

namespace emoe::worker::testing {
namespace {

std::string dtype_of(const std::string& name, const TinyBase& tiny) {
  if (tiny.dtype != "MIXED") return tiny.dtype;
  if (name.find("norm") != std::string::npos) return "F32";
  return name.find("mlp") != std::string::npos ? "BF16" : "F16";
}

}  // namespace

std::filesystem::path write_tiny_base(const std::filesystem::path& folder, const TinyBase& tiny) {
  EMOE_CHECK(emoe::create_directories(folder).ok());
  const DecoderConfig config = tiny_config({.tied = tiny.tied});
  const std::string dtype = word_of_dtype(dtype_of("lm_head.weight", tiny));
  const auto write = [&](const char* name, const std::string& text) {
    EMOE_CHECK(write_file_atomically(folder / name, text).ok());
  };
  write("config.json", config.to_json(dtype));
  write("generation_config.json", "{\"bos_token_id\": 1, \"eos_token_id\": 2}\n");
  write("tokenizer.model", emoe::testing::sentencepiece_bytes({"a", "b", "ab"}));

  // Larger than a fresh model's, so that logits spread and a mistake shows.
  const BaseWeights values = BaseWeights::random(config, 5, 0.15);
  std::vector<SafetensorsWriter::Planned> plan;
  for (const TensorSpec& spec : TensorTable(config)) {
    plan.push_back({spec.name, dtype_of(spec.name, tiny), spec.shape});
  }
  if (tiny.head_stored_too) plan.push_back({"lm_head.weight", plan[0].dtype, plan[0].shape});
  auto writer = ShardedWriter::create(folder, plan_shards(plan, tiny.max_shard_bytes).value());
  EMOE_CHECK(writer.ok());
  for (const auto& planned : plan) {
    const bool copy = tiny.head_stored_too && planned.name == "lm_head.weight";
    EMOE_CHECK(
        writer->write(values.tensor(copy ? plan[0].name : planned.name, planned.shape)).ok());
  }
  EMOE_CHECK(writer->close().ok());
  return folder;
}

Decoder make_model(const BaseWeights& base, Tuning tuning, at::ScalarType dtype) {
  ModelOptions options;
  options.config = base.config();
  options.dtype = dtype;
  options.full = tuning == Tuning::full;
  if (tuning == Tuning::lora) {
    options.lora = {
        .rank = 4,
        .alpha = 6.0,
        .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        .seed = 3};
  }
  options.emoe.routing = {.num_experts = 4, .top_k = 2};
  for (const int64_t layer : {0, 2}) {
    Partition& partition = options.emoe.partitions[layer];
    partition.num_experts = 4;
    partition.method = "file";
    const auto neurons = static_cast<int32_t>(base.config().intermediate_size);
    for (int32_t i = 0; i < neurons; ++i) {
      partition.labels.push_back((i * 7 + static_cast<int32_t>(layer)) % 4);
    }
  }
  return Decoder(std::move(options), base.source());
}

void perturb(Decoder& model, double size) {
  const at::NoGradGuard no_grad;
  at::manual_seed(11);
  const bool lora = model.options().lora.rank > 0;
  for (Parameter& parameter : model.parameters()) {
    if (lora && parameter.name.find("lora_B") == std::string::npos) continue;
    parameter.tensor.add_(at::randn(parameter.tensor.sizes()), size);
  }
  model.parameters_changed();
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

at::Tensor merged_from_files(const BaseWeights& base, const PeftAdapter& adapter,
                             const std::string& name, const std::vector<int64_t>& shape,
                             at::ScalarType dtype) {
  const std::string stem = "base_model.model." + name.substr(0, name.size() - 7);  // ".weight"
  const at::Tensor weight = base.tensor(name, shape).to(dtype);
  const auto a = adapter.tensors.find(stem + ".lora_A.weight");
  if (a == adapter.tensors.end()) return weight;
  const at::Tensor b = adapter.tensors.at(stem + ".lora_B.weight").to(dtype);
  return weight + at::mm(b, a->second.to(dtype)) *
                      (adapter.lora.alpha / static_cast<double>(adapter.lora.rank));
}

}  // namespace emoe::worker::testing
