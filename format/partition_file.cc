#include "format/partition_file.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/input_file.h"
#include "format/strict_json.h"

namespace emoe {
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

Status check_divides(int64_t d_ff, int32_t num_experts) {
  if (num_experts > 0 && d_ff % num_experts == 0) return ok_status();
  std::vector<int64_t> divisors;
  for (int64_t n = 1; n <= d_ff; ++n) {
    if (d_ff % n == 0) divisors.push_back(n);
  }
  return absl::InvalidArgumentError(absl::StrCat("emoe.experts: ", num_experts,
                                                 " does not divide the FFN width ", d_ff,
                                                 ", possible are ", absl::StrJoin(divisors, ", ")));
}

Status check_labels(const Partition& partition, int64_t d_ff) {
  EMOE_RETURN_IF_ERROR(check_divides(d_ff, partition.num_experts));
  if (d_ff == 0 || std::ssize(partition.labels) != d_ff) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", partition.labels.size(), " labels for ", d_ff, " neurons"));
  }
  std::vector<int64_t> sizes(static_cast<size_t>(partition.num_experts), 0);
  for (size_t i = 0; i < partition.labels.size(); ++i) {
    const int32_t label = partition.labels[i];
    if (label < 0 || label >= partition.num_experts) {
      return absl::InvalidArgumentError(absl::StrCat("label ", label, " of neuron ", i,
                                                     " is not in 0 … ", partition.num_experts - 1));
    }
    ++sizes[static_cast<size_t>(label)];
  }
  for (size_t expert = 0; expert < sizes.size(); ++expert) {
    if (sizes[expert] == d_ff / partition.num_experts) continue;
    return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " has ", sizes[expert],
                                                   " neurons, each must have ",
                                                   d_ff / partition.num_experts));
  }
  return ok_status();
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
    EMOE_ASSIGN_OR_RETURN(const nlohmann::json json,
                          parse_strict_json(text, "is no partition file"));
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

std::filesystem::path partition_file(const std::filesystem::path& folder, int64_t layer) {
  return folder / absl::StrFormat("layer_%02d.json", layer);
}

Status write_partition(const std::filesystem::path& folder, int64_t layer,
                       const Partition& partition) {
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  return write_file_atomically(partition_file(folder, layer), partition_to_json(layer, partition));
}

Result<Partition> read_partition(const std::filesystem::path& folder, int64_t layer) {
  const std::filesystem::path file = partition_file(folder, layer);
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_input(file, InputKind::text, 64 << 20));
  Result<Partition> partition = partition_from_json(text);
  if (!partition.ok()) return with_context(partition.status(), file.string());
  return partition;
}

Result<Partition> read_partition_for(const std::filesystem::path& folder, int64_t layer,
                                     int32_t num_experts, int64_t d_ff) {
  EMOE_ASSIGN_OR_RETURN(Partition stored, read_partition(folder, layer));
  if (stored.num_experts == num_experts && std::ssize(stored.labels) == d_ff) return stored;
  return absl::InvalidArgumentError(absl::StrCat(
      partition_file(folder, layer).string(), ": has ", stored.num_experts, " experts of ",
      stored.labels.size(), " neurons, the job wants ", num_experts, " of ", d_ff));
}

Result<std::map<int64_t, Partition>> read_neuron_order(const std::filesystem::path& model,
                                                       const DecoderConfig& config) {
  const std::filesystem::path folder = model / kNeuronOrderFolder;
  std::map<int64_t, Partition> partitions;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::filesystem::path file = partition_file(folder, layer);
    if (!std::filesystem::exists(file)) continue;
    EMOE_ASSIGN_OR_RETURN(Partition partition, read_partition(folder, layer));
    const Status fits = check_labels(partition, config.intermediate_size);
    if (!fits.ok()) return with_context(fits, file.string());
    partitions[layer] = std::move(partition);
  }
  if (!partitions.empty()) return partitions;
  return absl::NotFoundError(
      absl::StrCat(folder.string(),
                   " has no layer_NN.json: this folder's neurons lie in their original order; "
                   "give emoe.experts to make experts of them"));
}

Status check_order_is_original(const std::filesystem::path& model, const DecoderConfig& config,
                               const std::vector<int64_t>& layers) {
  const auto order = read_neuron_order(model, config);
  if (absl::IsNotFound(order.status())) return ok_status();
  EMOE_RETURN_IF_ERROR(order.status());
  for (const int64_t layer : layers) {
    if (!order->contains(layer)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "layer ", layer, " of ", model.string(), " lies in the order of its ", kNeuronOrderFolder,
        "/ already: undo that first (task: convert without emoe), or leave the layer out of "
        "emoe.layers"));
  }
  return ok_status();
}

Status check_partition_weights(const Partition& partition, const std::filesystem::path& file,
                               const std::string& weight_hash) {
  if (partition.weight_hash.empty() || partition.weight_hash == weight_hash) return ok_status();
  return absl::FailedPreconditionError(
      absl::StrCat(file.string(), ": was made from other weights (",
                   partition.weight_hash.substr(0, 12), "…, these are ", weight_hash.substr(0, 12),
                   "…); empty its weight_hash to use the labels all the same"));
}

}  // namespace emoe
