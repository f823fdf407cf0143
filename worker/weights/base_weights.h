#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

#include "base/status.h"
#include "format/decoder_config.h"
#include "worker/model/model.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {

// Where a run's base weights come from: a Hugging Face folder, or numbers drawn from a seed.
// Thread-safe. Cheap to copy; copies share the mapped files.
class BaseWeights {
 public:
  // Reads config.json (strictly) and the weights' headers; errors as for DecoderConfig::read(),
  // read_weight_headers() and check_tensors(), and INVALID_ARGUMENT where a tied model
  // carries an lm_head that is not the embedding.
  [[nodiscard]] static Result<BaseWeights> open(const std::filesystem::path& folder);
  // A fresh model as transformers would start it: normal(0, initializer_range), norms 1. Each
  // number is a function of seed, tensor name and index only.
  [[nodiscard]] static BaseWeights random(const DecoderConfig& config, int64_t seed,
                                          double initializer_range = 0.02);

  [[nodiscard]] const DecoderConfig& config() const { return config_; }
  // Empty for random weights.
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // Null for random weights.
  [[nodiscard]] const WeightFolder* folder() const { return folder_.get(); }

  // As stored, perhaps a view into a mapped file; throws std::runtime_error for another name or
  // shape.
  [[nodiscard]] at::Tensor tensor(const std::string& name, const std::vector<int64_t>& shape) const;
  [[nodiscard]] WeightSource source() const;
  // See WeightFolder::release(); nothing for random weights.
  void release() const {
    if (folder_ != nullptr) folder_->release();
  }
  // DATA_LOSS naming the first tensor with a value that is NaN or infinite. Reads every weight, so it
  // is for a run whose numbers are not finite. `on_work_done` is called for each tensor.
  [[nodiscard]] Status check_finite(const std::function<void()>& on_work_done) const;

 private:
  explicit BaseWeights(DecoderConfig config) : config_(std::move(config)) {}
  DecoderConfig config_;
  std::filesystem::path path_;
  std::shared_ptr<const WeightFolder> folder_;
  int64_t seed_ = 0;
  double initializer_range_ = 0.02;
};

}  // namespace emoe::worker
