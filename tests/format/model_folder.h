#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "format/decoder_config.h"
#include "format/dtype.h"
#include "format/peft_config.h"
#include "format/tensor_table.h"
#include "tests/format/safetensors_bytes.h"
#include "tests/format/tiny_config.h"
#include "tests/format/tiny_tokenizer.h"

namespace emoe::testing {

// A Llama of 4 layers and d_ff 64.
inline DecoderConfig small_config() {
  return tiny_config({.hidden = 8, .d_ff = 64, .layers = 4, .vocab = 320, .positions = 512});
}

// A safetensors file of zeros, in F32; sparse, they take no place in memory or on the disk.
inline void write_zeros(const std::filesystem::path& file,
                        const std::map<std::string, std::vector<int64_t>>& shapes,
                        bool sparse = false) {
  std::string header;
  size_t offset = 0;
  for (const auto& [name, shape] : shapes) {
    const size_t end = offset + bytes_of_tensor("F32", shape).value();
    header += (header.empty() ? "{" : ",") +
              entry(name, "F32", shape_text(shape),
                    "[" + std::to_string(offset) + "," + std::to_string(end) + "]");
    offset = end;
  }
  write_bytes(file, safetensors_bytes(header + "}", std::string(sparse ? 0 : offset, '\0')));
  if (sparse) std::filesystem::resize_file(file, std::filesystem::file_size(file) + offset);
}

// A tokenizer.model of 300 pieces.
inline const std::string& tiny_tokenizer_bytes() {
  static const std::string bytes = [] {
    const TempDir folder;
    train_tiny_tokenizer(folder);
    return read_file(folder / "tokenizer.model").value();
  }();
  return bytes;
}

// A folder whose files are what they should be; its weights are zeros.
inline void write_model_folder(const std::filesystem::path& folder, const DecoderConfig& config,
                               bool sparse = false) {
  std::filesystem::create_directories(folder);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& spec : TensorTable(config)) shapes[spec.name] = spec.shape;
  write_zeros(folder / "model.safetensors", shapes, sparse);
  write_bytes(folder / "config.json", config.to_json("float32"));
  write_bytes(folder / "tokenizer.model", tiny_tokenizer_bytes());
}

// A PEFT folder of rank 2 and alpha 4 for q_proj of every layer; also zeros.
inline void write_adapter_folder(const std::filesystem::path& folder, const DecoderConfig& config) {
  std::filesystem::create_directories(folder);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string stem =
        "base_model.model.model.layers." + std::to_string(l) + ".self_attn.q_proj.";
    shapes[stem + "lora_A.weight"] = {2, config.hidden_size};
    shapes[stem + "lora_B.weight"] = {config.hidden_size, 2};
  }
  write_zeros(folder / kPeftTensorFile, shapes);
  write_bytes(folder / kPeftConfigFile, R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4,
                                           "target_modules": ["q_proj"]})");
}

}  // namespace emoe::testing
