#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/core/ScalarType.h>

#include "worker/device/block_cache.h"

namespace emoe::worker {

// The arguments of a bench: `--name NUMBER` of those that it has, `--dtype float32|bfloat16` and
// `--lengths TEXT`.
struct BenchOptions {
  std::map<std::string, int64_t> numbers;
  std::string lengths;
  at::ScalarType dtype = at::kFloat;

  [[nodiscard]] int64_t operator[](const std::string& name) const { return numbers.at(name); }
  [[nodiscard]] const char* dtype_name() const {
    return dtype == at::kFloat ? "float32" : "bfloat16";
  }

  void set(std::string name, const std::string& value) {
    if (!name.starts_with("--")) throw std::invalid_argument(name);
    name = name.substr(2);
    std::replace(name.begin(), name.end(), '-', '_');
    if (name == "lengths") {
      lengths = value;
    } else if (numbers.contains(name)) {
      numbers[name] = std::stoll(value);
    } else if (name == "dtype" && (value == "float32" || value == "bfloat16")) {
      dtype = value == "float32" ? at::kFloat : at::kBFloat16;
    } else {
      throw std::invalid_argument("--" + name + " " + value);
    }
  }
};

// A bench's main: `defaults` (`threads` is one of them), changed by the arguments, to bench().
inline int run_bench(int argc, char** argv, std::map<std::string, int64_t> defaults,
                     void (*bench)(const BenchOptions&)) {
  try {
    BenchOptions options{std::move(defaults)};
    for (int i = 1; i + 1 < argc; i += 2) options.set(argv[i], argv[i + 1]);
    keep_freed_memory();
    at::set_num_threads(static_cast<int>(options["threads"]));
    bench(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 64;
  }
}

}  // namespace emoe::worker
