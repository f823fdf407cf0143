#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/diagnostics.h"

namespace emoe {

inline constexpr int64_t kMaxConfigSize = int64_t{1} << 31;  // keeps products of two below 2^63

// Takes values out of a JSON object and notes everything that is wrong with it. The object must
// outlive it.
class ConfigReader {
 public:
  // `prefix` goes before the keys in what is noted ("rope_scaling.").
  ConfigReader(const nlohmann::json& object, std::string source, Diagnostics& problems,
               std::string prefix = "")
      : object_(object),
        source_(std::move(source)),
        prefix_(std::move(prefix)),
        problems_(problems) {}

  [[nodiscard]] const nlohmann::json& object() const { return object_; }
  // True where the key is there and not null, which means "not set".
  [[nodiscard]] bool has(const std::string& key) const {
    return object_.contains(key) && !object_[key].is_null();
  }
  void fail(const std::string& key, const std::string& reason) {
    problems_.add(source_, prefix_ + key, reason);
  }
  // For an object that stands under a key of this one.
  [[nodiscard]] ConfigReader inside(const std::string& key) const {
    return {object_[key], source_, problems_, prefix_ + key + "."};
  }

  // A whole number from `minimum`; `fallback` where the key is absent or null (0: it is required).
  int64_t count(const std::string& key, int64_t minimum, int64_t fallback,
                int64_t maximum = kMaxConfigSize);
  // Above 0; `fallback` where the key is absent or null (0: it is required).
  double positive(const std::string& key, double fallback);
  bool flag(const std::string& key, bool fallback);
  // A token id or a list of them.
  std::vector<int64_t> token_ids(const std::string& key, const std::vector<int64_t>& fallback);

 private:
  const nlohmann::json& object_;
  std::string source_;
  std::string prefix_;
  Diagnostics& problems_;
};

}  // namespace emoe
