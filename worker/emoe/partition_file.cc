#include "worker/emoe/partition_file.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "worker/emoe/partition.h"

namespace emoe::worker {
namespace {

// get<>() alone would cut off a fraction and wrap what is too large.
template <typename Integer>
Result<Integer> strict_integer(const nlohmann::json& value, const std::string& key) {
  const bool fits = value.is_number_integer() &&
                    (value.is_number_unsigned() ? std::in_range<Integer>(value.get<uint64_t>())
                                                : std::in_range<Integer>(value.get<int64_t>()));
  if (fits) return value.get<Integer>();
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": ", value.dump(), " is no whole number in its range"));
}

}  // namespace

std::filesystem::path partition_file(const std::filesystem::path& folder, int64_t layer) {
  return folder / absl::StrFormat("layer_%02d.json", layer);
}

std::string partition_to_json(int64_t layer, const Partition& partition) {
  const nlohmann::ordered_json json = {{"layer", layer},
                                       {"experts", partition.num_experts},
                                       {"method", partition.method},
                                       {"seed", partition.seed},
                                       {"inertia", partition.inertia},
                                       {"weight_hash", partition.weight_hash},
                                       {"labels", partition.labels}};
  return json.dump() + "\n";
}

Result<Partition> partition_from_json(const std::string& text) {
  Partition partition;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    for (const nlohmann::json& label : json.at("labels")) {
      EMOE_ASSIGN_OR_RETURN(const int32_t value, strict_integer<int32_t>(label, "labels"));
      partition.labels.push_back(value);
    }
    EMOE_ASSIGN_OR_RETURN(partition.num_experts,
                          strict_integer<int32_t>(json.at("experts"), "experts"));
    partition.inertia = json.value("inertia", 0.0);
    partition.method = json.value("method", "");
    if (json.contains("seed")) {
      EMOE_ASSIGN_OR_RETURN(partition.seed, strict_integer<int64_t>(json["seed"], "seed"));
    }
    partition.weight_hash = json.value("weight_hash", "");
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("is no partition file: ", error.what()));
  }
  EMOE_RETURN_IF_ERROR(check_labels(partition, std::ssize(partition.labels)));
  return partition;
}

Status write_partition(const std::filesystem::path& folder, int64_t layer,
                       const Partition& partition) {
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  return write_file_atomically(partition_file(folder, layer), partition_to_json(layer, partition));
}

Result<Partition> read_partition(const std::filesystem::path& folder, int64_t layer) {
  const std::filesystem::path file = partition_file(folder, layer);
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
  Result<Partition> partition = partition_from_json(text);
  if (!partition.ok()) return with_context(partition.status(), file.string());
  return partition;
}

}  // namespace emoe::worker
