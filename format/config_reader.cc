#include "format/config_reader.h"

#include <cmath>

#include <absl/strings/str_cat.h>

namespace emoe {

using nlohmann::json;

int64_t ConfigReader::count(const std::string& key, int64_t minimum, int64_t fallback,
                            int64_t maximum) {
  if (!has(key)) {
    if (fallback == 0) fail(key, "is missing");
    return fallback;
  }
  const json& value = object_[key];
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(maximum) ||
      value.get<int64_t>() < minimum) {
    fail(key, absl::StrCat("is ", value.dump(), ", must be a whole number from ", minimum, " to ",
                           maximum));
    return fallback;
  }
  return value.get<int64_t>();
}

double ConfigReader::positive(const std::string& key, double fallback) {
  if (!has(key)) {
    if (fallback == 0.0) fail(key, "is missing");
    return fallback;
  }
  const json& value = object_[key];
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
    fail(key, absl::StrCat("is ", value.dump(), ", must be a number above 0"));
    return fallback;
  }
  return value.get<double>();
}

bool ConfigReader::flag(const std::string& key, bool fallback) {
  if (!has(key)) return fallback;
  if (object_[key].is_boolean()) return object_[key].get<bool>();
  fail(key, absl::StrCat("is ", object_[key].dump(), ", must be true or false"));
  return fallback;
}

std::vector<int64_t> ConfigReader::token_ids(const std::string& key,
                                             const std::vector<int64_t>& fallback) {
  if (!has(key)) return fallback;
  const json& value = object_[key];
  std::vector<int64_t> ids;
  for (const json& id : value.is_array() ? value : json::array({value})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxConfigSize)) {
      break;
    }
    ids.push_back(id.get<int64_t>());
  }
  if (!ids.empty() && ids.size() == (value.is_array() ? value.size() : 1)) return ids;
  fail(key, absl::StrCat("is ", value.dump(), ", must be a token id or a list of them"));
  return fallback;
}

}  // namespace emoe
