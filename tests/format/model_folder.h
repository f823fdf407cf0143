#pragma once

#include <filesystem>
#include <string>

#include "format/dtype.h"
#include "format/llama_config.h"
#include "format/tensor_table.h"
#include "tests/format/safetensors_bytes.h"
#include "tests/format/tiny_config.h"

namespace emoe::testing {

// A Llama of 4 layers and d_ff 64.
inline LlamaConfig small_config() {
  return tiny_config({.hidden = 8, .d_ff = 64, .layers = 4, .vocab = 16});
}

// A folder whose files are what they should be as far as headers say: weights of zeros, and a
// tokenizer.model that is none.
inline void write_model_folder(const std::filesystem::path& folder, const LlamaConfig& config) {
  std::filesystem::create_directories(folder);
  std::string header;
  size_t offset = 0;
  for (const auto& [name, shape, role, layer] : TensorTable(config)) {
    const size_t end = offset + bytes_of_tensor("F32", shape).value();
    header += (header.empty() ? "{" : ",") +
              entry(name, "F32", shape_text(shape),
                    "[" + std::to_string(offset) + "," + std::to_string(end) + "]");
    offset = end;
  }
  write_bytes(folder / "config.json", config.to_json("float32"));
  write_bytes(folder / "model.safetensors",
              safetensors_bytes(header + "}", std::string(offset, '\0')));
  write_bytes(folder / "tokenizer.model", "no tokenizer");
}

}  // namespace emoe::testing
