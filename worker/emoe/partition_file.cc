#include "worker/emoe/partition_file.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "worker/emoe/partition.h"

namespace emoe::worker {

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
      // get<> would cut a fraction off.
      if (!label.is_number_integer()) return absl::InvalidArgumentError("labels must be integers");
      partition.labels.push_back(label.get<int32_t>());
    }
    partition.num_experts = json.at("experts").get<int32_t>();
    partition.inertia = json.value("inertia", 0.0);
    partition.method = json.value("method", "");
    partition.seed = json.value("seed", int64_t{0});
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
