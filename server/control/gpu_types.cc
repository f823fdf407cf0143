#include "server/control/gpu_types.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <absl/strings/numbers.h>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe::server {
namespace {

// The rows of worker/preflight/gpu_facts.cc.
constexpr char kName[] = "GPU";
constexpr char kFree[] = "GPU memory free";
constexpr size_t kLargestFile = 1 << 20;

// "139 GB" as the preflight writes it; 0 where it is something else.
int64_t bytes_of(const std::string& text) {
  static constexpr std::string_view kPrefixes = "kMGTP";
  const size_t space = text.find(' ');
  double value = 0;
  if (space == std::string::npos || !absl::SimpleAtod(text.substr(0, space), &value)) return 0;
  const std::string unit = text.substr(space + 1);
  if (unit == "B") return std::llround(value);
  const size_t power =
      unit.size() == 2 && unit[1] == 'B' ? kPrefixes.find(unit[0]) : std::string::npos;
  if (power == std::string::npos || !(value >= 0 && value < 1000)) return 0;
  return std::llround(value * std::pow(1000.0, static_cast<double>(power + 1)));
}

}  // namespace

GpuTypes::GpuTypes(std::filesystem::path file) : file_(std::move(file)) {
  const auto text = read_file(file_, kLargestFile);
  if (!text.ok()) return;
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return;
  for (const auto& [name, bytes] : json.items()) {
    if (bytes.is_number_integer() && bytes.get<int64_t>() > 0) bytes_[name] = bytes.get<int64_t>();
  }
}

Status GpuTypes::learn(const v1::PreflightReport& report) {
  std::map<int32_t, std::string> names;  // by rank
  std::map<std::string, int64_t> found;
  for (const v1::PreflightRow& row : report.rows()) {
    if (row.check() == kName) names[row.rank()] = row.value();
    if (row.check() != kFree || !names.contains(row.rank())) continue;
    int64_t& bytes = found[names[row.rank()]];
    bytes = std::max(bytes, bytes_of(row.value()));
  }
  const std::lock_guard lock(mutex_);
  bool news = false;
  for (const auto& [name, bytes] : found) {
    int64_t& known = bytes_[name];
    news = news || bytes > known;
    known = std::max(known, bytes);
    if (known == 0) bytes_.erase(name);
  }
  if (!news) return ok_status();
  return write_file_atomically(file_, nlohmann::json(bytes_).dump() + "\n");
}

GpuType GpuTypes::smallest() const {
  const std::lock_guard lock(mutex_);
  const auto least =
      std::ranges::min_element(bytes_, {}, [](const auto& entry) { return entry.second; });
  return least == bytes_.end() ? GpuType{} : GpuType{.name = least->first, .bytes = least->second};
}

}  // namespace emoe::server
