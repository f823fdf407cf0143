#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/batch.h"
#include "worker/model/decoder.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker::testing {

// tests/worker/model/data/<name>.safetensors: see tests/reference/make_engine_fixture.py.
class EngineFixture {
 public:
  explicit EngineFixture(const std::string& name = "engine");

  [[nodiscard]] at::Tensor tensor(const std::string& name) const;
  [[nodiscard]] bool has(const std::string& name) const { return file_->tensors().contains(name); }

  [[nodiscard]] static DecoderConfig config(const std::string& name = "engine");
  // The fixture's two converted layers with its labels; 6 experts.
  [[nodiscard]] EmoeOptions emoe(Selector selector, int32_t top_k = 2) const;
  [[nodiscard]] static LoraOptions lora();  // all seven linears, rank 2
  [[nodiscard]] WeightSource base() const;
  // Puts the fixture's adapter into the model's parameters.
  void load_adapter(Decoder& model) const;

  // Row i without padding.
  struct RowTokens {
    std::vector<int64_t> ids;
    std::vector<int64_t> targets;
  };
  [[nodiscard]] RowTokens row(int64_t index) const;
  // The rows side by side, each padded to `padded_length` where that is set. Weights 1 / targets of
  // all rows of the fixture.
  [[nodiscard]] PackedBatch batch(const std::vector<int64_t>& rows,
                                  std::optional<int64_t> padded_length) const;
  [[nodiscard]] PackedBatch padded() const { return batch({0, 1, 2, 3}, 10); }
  [[nodiscard]] PackedBatch packed() const { return batch({0, 1, 2, 3}, std::nullopt); }

 private:
  std::optional<SafetensorsFile> file_;
};

// Largest |a - b|, and that divided by the largest |b|.
[[nodiscard]] double max_difference(const at::Tensor& a, const at::Tensor& b);
[[nodiscard]] double relative_difference(const at::Tensor& a, const at::Tensor& b);

}  // namespace emoe::worker::testing
