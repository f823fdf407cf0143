#include "worker/weights/merge_check.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "worker/model/attention.h"
#include "worker/model/llama_layer.h"
#include "worker/model/one_segment.h"
#include "worker/model/rms_norm.h"
#include "worker/weights/neuron_order.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  return left.scalar_type() == right.scalar_type() && left.sizes() == right.sizes() &&
         (left.nbytes() == 0 ||
          std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) == 0);
}

// Loads the weights of one layer in fp32.
class LayerReader {
 public:
  explicit LayerReader(const BaseWeights& weights) : weights_(weights) {
    for (const auto& [name, shape] : llama_tensors(weights.config())) shapes_[name] = shape;
  }

  [[nodiscard]] at::Tensor stored(const std::string& name) const {
    return weights_.tensor(name, shapes_.at(name));
  }
  [[nodiscard]] Weight weight(const std::string& name) const {
    return {name, stored(name).to(at::kFloat), at::Tensor()};
  }
  [[nodiscard]] LlamaLayer layer(int64_t index) const {
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const auto linear = [&](const char* name) {
      return Linear{weight(absl::StrCat(prefix, name, ".weight")), {}};
    };
    LlamaLayer layer;
    layer.input_norm = weight(prefix + "input_layernorm.weight");
    layer.post_norm = weight(prefix + "post_attention_layernorm.weight");
    layer.q = linear("self_attn.q_proj");
    layer.k = linear("self_attn.k_proj");
    layer.v = linear("self_attn.v_proj");
    layer.o = linear("self_attn.o_proj");
    layer.gate = linear("mlp.gate_proj");
    layer.up = linear("mlp.up_proj");
    layer.down = linear("mlp.down_proj");
    return layer;
  }

 private:
  const BaseWeights& weights_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

void check_changed(const Llama& model, const BaseWeights& base, const MergeItem& item,
                   const at::Tensor& stored, ExportReport& report, TensorReport& entry) {
  const at::ScalarType type = stored.scalar_type();
  if (!same_bits(stored, merged_tensor(model, base, item).to(type))) {
    report.problems.push_back(
        absl::StrCat(item.name, ": the file does not hold the merged weight"));
  }
  entry.changed = !same_bits(stored, base_tensor(base, item).to(type));
  if (entry.max_abs_delta == 0.0) {
    report.warnings.push_back(absl::StrCat(item.name, ": trained, but its delta is exactly 0"));
  } else if (!entry.changed) {
    report.warnings.push_back(absl::StrCat(item.name, ": rounding to ", report.dtype,
                                           " erased its delta of at most ", entry.max_abs_delta));
  }
}

void check_tensor(const Llama& model, const BaseWeights& base, const MergeItem& item,
                  const BaseWeights& written, ExportReport& report, TensorReport& entry) {
  const Result<at::Tensor> stored = written.folder()->tensor(item.name, item.shape);
  if (!stored.ok()) {
    report.problems.push_back(std::string(stored.status().message()));
    return;
  }
  if (written.folder()->tensors().at(item.name).dtype != item.dtype) {
    report.problems.push_back(absl::StrCat(item.name, ": written in another dtype than planned"));
    return;
  }
  if (item.changed) {
    check_changed(model, base, item, *stored, report, entry);
    return;
  }
  entry.changed = !same_bits(*stored, base_tensor(base, item).to(stored->scalar_type()));
  if (entry.changed) {
    report.problems.push_back(
        absl::StrCat(item.name, ": training cannot have changed it, but it differs from the base"));
  }
}

// A merge that came out equal to its base although training moved it is worthless.
void check_not_erased(ExportReport& report) {
  bool moved = false;
  bool visible = false;
  for (const TensorReport& entry : report.tensors) {
    moved = moved || (entry.expected_changed && entry.max_abs_delta > 0.0);
    visible = visible || entry.changed;
  }
  if (moved && !visible) {
    report.problems.push_back(absl::StrCat("rounding to ", report.dtype,
                                           " erased the whole delta: the merged model equals the "
                                           "base; export it in float32"));
  }
}

void check_logits(Llama& model, const BaseWeights& written, const std::vector<int64_t>& probe,
                  ExportReport& report) {
  ForwardOptions dense;
  dense.experts_on = false;
  const at::Tensor before = model.logits(one_segment(probe), dense).to(at::kCPU);
  const at::Tensor after = dense_logits(written, probe);
  report.probe_tokens = static_cast<int64_t>(probe.size());
  report.max_abs_logit = before.abs().max().item<double>();
  report.max_abs_logit_difference = (before - after).abs().max().item<double>();
  const double part = logit_tolerance(report.dtype, model.options().dtype);
  report.logit_tolerance = part * std::max(1.0, report.max_abs_logit);
  // Written so that a NaN fails.
  if (!(report.max_abs_logit_difference <= report.logit_tolerance)) {
    report.problems.push_back(
        absl::StrCat("logits of the folder and of the trained model differ by ",
                     report.max_abs_logit_difference, ", allowed are ", report.logit_tolerance));
  }
}

}  // namespace

at::Tensor dense_logits(const BaseWeights& weights, const std::vector<int64_t>& ids) {
  const at::NoGradGuard no_grad;
  const LlamaConfig& config = weights.config();
  const LayerReader reader(weights);
  const auto tokens = static_cast<int64_t>(ids.size());
  const std::vector<int64_t> lengths{tokens};
  LayerPass pass;
  pass.config = &config;
  pass.rotary = rotary_table(at::arange(tokens, at::kLong), config.head_dim, config.rope_theta);
  pass.lengths = lengths;
  pass.experts_on = false;
  const Attention attention = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return segment_attention(q, k, v, lengths);
  };
  const std::string embedding = "model.embed_tokens.weight";
  at::Tensor x =
      reader.stored(embedding).index_select(0, at::tensor(ids, at::kLong)).to(at::kFloat);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    x = forward_layer(reader.layer(l), x, pass, attention, at::Tensor(), {});
  }
  x = rms_norm(x, reader.weight("model.norm.weight"), config.rms_norm_eps);
  const std::string head = config.tie_word_embeddings ? embedding : "lm_head.weight";
  return at::linear(x, reader.weight(head).compute);
}

void check_merged_model(Llama& model, const BaseWeights& base, const MergePlan& plan,
                        const std::filesystem::path& folder, const std::vector<int64_t>& probe,
                        ExportReport& report) {
  const at::NoGradGuard no_grad;
  const Result<BaseWeights> written = BaseWeights::open(folder);
  if (!written.ok()) {
    report.problems.push_back(std::string(written.status().message()));
    return;
  }
  if (written->folder()->tensors().size() != plan.items.size()) {
    report.problems.push_back("the folder has another number of tensors than planned");
  }
  for (size_t i = 0; i < plan.items.size(); ++i) {
    check_tensor(model, base, plan.items[i], *written, report, report.tensors[i]);
  }
  check_not_erased(report);
  check_logits(model, *written, probe, report);
}

void check_adapter(Llama& model, const std::filesystem::path& folder, ExportReport& report) {
  const Result<PeftAdapter> written = read_peft_adapter(folder);
  if (!written.ok()) {
    report.problems.push_back(std::string(written.status().message()));
    return;
  }
  size_t compared = 0;
  for (const Parameter& parameter : model.parameters()) {
    const auto found = written->tensors.find(parameter.name);
    const at::Tensor original =
        to_original_order(parameter, parameter.tensor.detach(), model.options().emoe).to(at::kCPU);
    if (found == written->tensors.end() || !same_bits(found->second, original)) {
      report.problems.push_back(
          absl::StrCat(parameter.name, ": the adapter's file does not hold the trained tensor"));
    }
    ++compared;
  }
  const LoraOptions& lora = model.options().lora;
  if (compared != written->tensors.size() || written->lora.rank != lora.rank ||
      written->lora.alpha != lora.alpha) {
    report.problems.push_back("adapter_config.json does not describe the trained adapter");
  }
}

}  // namespace emoe::worker
