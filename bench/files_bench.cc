// A model folder read, trained by nobody, and exported: seconds of each, and the memory of the export; beside each
// export, dd of as many bytes with fsync.
//
//   files_bench [--hidden 1024] [--ffn 2752] [--layers 24] …    bf16; LoRA on q and v
//
// Prints one JSON line. The folders lie in the working directory, so on the disk that is measured.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/sha256.h"
#include "bench/bench_options.h"
#include "bench/scratch_folder.h"
#include "format/tensor_table.h"
#include "worker/device/tensor_memory.h"
#include "worker/model/model.h"
#include "worker/tensor/safetensors.h"
#include "worker/weights/export.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

DecoderConfig config_of(const BenchOptions& a) {
  DecoderConfig config;
  config.hidden_size = a["hidden"];
  config.intermediate_size = a["ffn"];
  config.num_hidden_layers = a["layers"];
  config.num_attention_heads = config.num_key_value_heads = a["heads"];
  config.head_dim = a["hidden"] / a["heads"];
  config.vocab_size = a["vocab"];
  config.max_position_embeddings = 512;
  return config;
}

void check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

template <typename T>
T value_of(Result<T> result) {
  check(result.status());
  return std::move(result).value();
}

int64_t bytes_in(const fs::path& folder) {
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

void write_base(const DecoderConfig& config, const fs::path& folder) {
  check(emoe::create_directories(folder));
  check(write_file_atomically(folder / "config.json", config.to_json("bfloat16")));
  std::vector<SafetensorsWriter::Planned> plan;
  for (const TensorSpec& spec : TensorTable(config))
    plan.push_back({spec.name, "BF16", spec.shape});
  auto writer = value_of(SafetensorsWriter::create(folder / "model.safetensors", plan, {}));
  for (const auto& planned : plan) {
    check(writer.write((at::randn(planned.shape) * 0.02).to(at::kBFloat16)));
  }
  check(writer.close());
}

template <typename Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the disk does with as many bytes of a new file.
double seconds_of_dd(const fs::path& file, int64_t bytes) {
  const std::string command =
      absl::StrCat("dd if=/dev/zero 'of=", file.string(), "' bs=4M count=", bytes,
                   " iflag=count_bytes conv=fsync status=none");
  const double seconds = seconds_of([&] {
    if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
  });
  fs::remove(file);
  return seconds;
}

void bench(const BenchOptions& a) {
  const ScratchFolder scratch;
  const fs::path folder = scratch.path() / "base";
  write_base(config_of(a), folder);
  std::optional<BaseWeights> base;
  const double open = seconds_of([&] { base = value_of(BaseWeights::open(folder)); });
  ModelOptions options;
  options.config = base->config();
  options.dtype = at::kBFloat16;
  options.lora = {.rank = 8, .alpha = 16.0, .targets = {"q_proj", "v_proj"}};
  std::unique_ptr<Model> model;
  const double load = seconds_of([&] { model = make_model(options, base->source()); });
  for (Parameter& parameter : model->parameters()) {
    const at::NoGradGuard no_grad;
    parameter.tensor.add_(0.01);
  }
  ExportOptions wanted;
  wanted.out = scratch.path() / "export";
  wanted.adapter = false;
  wanted.verify = false;
  const TensorMemory memory;
  // In turns, and the best of some each: a virtual machine's memory and disk are shared.
  double written = std::numeric_limits<double>::infinity();
  double copied = written;
  for (int64_t round = 0; round < a["rounds"]; ++round) {
    check(remove_tree(wanted.out));
    written =
        std::min(written, seconds_of([&] { (void)value_of(export_model(*model, *base, wanted)); }));
    copied = std::min(copied, seconds_of_dd(scratch.path() / "dd", bytes_in(wanted.out)));
  }
  const int64_t peak = memory.peak();
  wanted.verify = true;
  check(remove_tree(wanted.out));
  const double verified = seconds_of([&] { (void)value_of(export_model(*model, *base, wanted)); });
  const fs::path file = wanted.out / "model" / "model.safetensors";
  const double hashed = seconds_of([&] { (void)value_of(sha256_of_file(file)); });
  std::printf(
      "{\"program\": \"files\", \"open_seconds\": %.6f, \"load_seconds\": %.6f, \"bytes\": %ld, "
      "\"export_seconds\": %.6f, \"dd_seconds\": %.6f, \"verified_export_seconds\": %.6f, "
      "\"export_tensor_bytes\": %ld, "
      "\"hash_seconds\": %.6f}\n",
      open, load, static_cast<long>(bytes_in(wanted.out)), written, copied, verified,
      static_cast<long>(peak), hashed);
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  return emoe::worker::run_bench(argc, argv,
                                 {{"hidden", 1024},
                                  {"ffn", 2752},
                                  {"layers", 24},
                                  {"heads", 16},
                                  {"vocab", 32000},
                                  {"rounds", 5},
                                  {"threads", 2}},
                                 emoe::worker::bench);
}
