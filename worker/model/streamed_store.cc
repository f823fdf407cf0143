#include "worker/model/streamed_store.h"

#include <utility>

namespace emoe::worker {

StreamedStore::StreamedStore(const LlamaConfig& config, Source source)
    : table_(config), source_(std::move(source)) {
  for (const TensorSpec& spec : table_) {
    if (Weight* weight = outer_.of(spec.role)) weight->compute = source_(spec).values;
  }
  if (config.tie_word_embeddings) outer_.head = outer_.embedding;
}

std::shared_ptr<const DecoderLayer> StreamedStore::acquire(int64_t index) {
  auto layer = std::make_shared<DecoderLayer>();
  for (const TensorSpec& spec : table_) {
    if (spec.layer != index) continue;
    Tensor tensor = source_(spec);
    if (Linear* linear = layer->linear(spec.role)) {
      linear->weight = std::make_shared<DenseMatrix>(std::move(tensor.values));
      linear->lora = std::move(tensor.lora);
    } else {
      layer->norm(spec.role)->compute = std::move(tensor.values);
    }
  }
  return layer;
}

}  // namespace emoe::worker
