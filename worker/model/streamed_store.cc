#include <utility>

#include "worker/model/weight_store.h"

namespace emoe::worker {
namespace {

class StreamedStore final : public WeightStore {
 public:
  StreamedStore(const DecoderConfig& config, TensorReader read, std::vector<Parameter> parameters)
      : table_(config), read_(std::move(read)), parameters_(std::move(parameters)) {
    for (const TensorSpec& spec : table_) {
      if (Weight* weight = outer_.of(spec.role)) weight->compute = read_(spec).values;
    }
    if (config.tie_word_embeddings) outer_.head = outer_.embedding;
  }

  [[nodiscard]] Weight outer(TensorRole role) override { return *outer_.of(role); }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    auto layer = std::make_shared<DecoderLayer>();
    for (const TensorSpec& spec : table_) {
      if (spec.layer != index) continue;
      StreamedTensor tensor = read_(spec);
      if (Linear* linear = layer->linear(spec.role)) {
        linear->weight = std::make_shared<DenseMatrix>(std::move(tensor.values));
        linear->lora = std::move(tensor.lora);
      } else {
        layer->vector(spec.role)->compute = std::move(tensor.values);
      }
    }
    return layer;
  }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  void parameters_changed() override {}

 private:
  TensorTable table_;
  TensorReader read_;
  OuterWeights outer_;
  std::vector<Parameter> parameters_;
};

}  // namespace

std::unique_ptr<WeightStore> make_streamed_store(const DecoderConfig& config, TensorReader read,
                                                 std::vector<Parameter> parameters) {
  return std::make_unique<StreamedStore>(config, std::move(read), std::move(parameters));
}

}  // namespace emoe::worker
