#include "worker/emoe/partition.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/input_file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "format/strict_json.h"
#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

// Part of the cache's names: raise it whenever the labels of a k-means could change.
constexpr int kAlgorithmVersion = 1;

// L2-normalised copy; a row of zeros stays one (torch's F.normalize does the same).
Result<std::vector<float>> normalised(std::span<const float> rows, int64_t width) {
  std::vector<float> result(rows.begin(), rows.end());
  for (auto row = result.begin(); row != result.end(); row += width) {
    double square = 0.0;
    for (auto x = row; x != row + width; ++x) {
      square += static_cast<double>(*x) * static_cast<double>(*x);
    }
    if (!std::isfinite(square)) {
      return absl::DataLossError(absl::StrCat("row ", (row - result.begin()) / width,
                                              " of gate_proj has values that are not finite"));
    }
    const double scale = 1.0 / std::max(std::sqrt(square), 1e-12);
    for (auto x = row; x != row + width; ++x) {
      *x = static_cast<float>(static_cast<double>(*x) * scale);
    }
  }
  return result;
}

std::vector<int32_t> contiguous_labels(int64_t d_ff, int32_t num_experts) {
  std::vector<int32_t> labels(static_cast<size_t>(d_ff));
  const int64_t size = d_ff / num_experts;
  for (int64_t i = 0; i < d_ff; ++i) {
    labels[static_cast<size_t>(i)] = static_cast<int32_t>(i / size);
  }
  return labels;
}

// A Fisher-Yates shuffle of the contiguous labels.
std::vector<int32_t> random_labels(int64_t d_ff, const PartitionOptions& options) {
  std::vector<int32_t> labels = contiguous_labels(d_ff, options.num_experts);
  for (int64_t i = d_ff - 1; i > 0; --i) {
    // The modulo's bias is below d_ff / 2^64.
    const uint64_t other =
        partition_random_bits(options.seed, options.layer, -1, i) % static_cast<uint64_t>(i + 1);
    std::swap(labels[static_cast<size_t>(i)], labels[other]);
  }
  return labels;
}

Result<std::vector<int32_t>> file_labels(int64_t d_ff, const PartitionOptions& options,
                                         const std::string& weight_hash) {
  EMOE_ASSIGN_OR_RETURN(Partition stored, read_partition(options.folder, options.layer));
  const std::string file = partition_file(options.folder, options.layer).string();
  if (stored.num_experts != options.num_experts || std::ssize(stored.labels) != d_ff) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": has ", stored.num_experts, " experts of ", stored.labels.size(),
                     " neurons, the job wants ", options.num_experts, " of ", d_ff));
  }
  const bool same = stored.weight_hash.empty() || stored.weight_hash == weight_hash;
  if (!same && !options.tuned_since) {
    return absl::FailedPreconditionError(absl::StrCat(
        file, ": was made from other weights (", stored.weight_hash.substr(0, 12), "…, these are ",
        weight_hash.substr(0, 12), "…); empty its weight_hash to use the labels all the same"));
  }
  return std::move(stored.labels);
}

std::filesystem::path cache_file(const PartitionOptions& options, const std::string& weight_hash) {
  const std::string key = sha256_hex(absl::StrFormat(
      "partition %d\n%s\n%d\n%s\n%d\n%d\n%d", kAlgorithmVersion, weight_hash, options.num_experts,
      options.method, options.seed, options.restarts, options.layer));
  return options.cache_dir / absl::StrCat("partition-", key.substr(0, 32), ".json");
}

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

// The text of a partition file; also, with a digest over it, of the cache.
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

// First line the digest of the rest, so that a damaged file is seen.
std::optional<Partition> read_cache(const std::filesystem::path& file, int64_t d_ff,
                                    const std::string& weight_hash) {
  const Result<std::string> content = read_file(file);
  if (!content.ok()) return std::nullopt;
  const size_t line = content->find('\n');
  if (line != std::string::npos &&
      content->compare(0, line, sha256_hex(std::string_view(*content).substr(line + 1))) == 0) {
    Result<Partition> partition = partition_from_json(content->substr(line + 1));
    if (partition.ok() && std::ssize(partition->labels) == d_ff &&
        partition->weight_hash == weight_hash) {
      return *std::move(partition);
    }
  }
  log_warning("%s: the cached partition does not verify and is made anew", file.string());
  return std::nullopt;
}

void write_cache(const std::filesystem::path& file, int64_t layer, const Partition& partition) {
  const std::string json = partition_to_json(layer, partition);
  Status status = emoe::create_directories(file.parent_path());
  if (status.ok()) status = write_file_atomically(file, absl::StrCat(sha256_hex(json), "\n", json));
  if (!status.ok()) log_warning("cannot keep the partition: %s", std::string(status.message()));
}

Result<std::vector<int32_t>> make_labels(const std::vector<float>& rows, int64_t d_ff,
                                         int64_t hidden, const PartitionOptions& options,
                                         const std::string& weight_hash) {
  if (options.method == "contiguous") return contiguous_labels(d_ff, options.num_experts);
  if (options.method == "random") return random_labels(d_ff, options);
  if (options.method == "file") return file_labels(d_ff, options, weight_hash);
  if (options.method != "kmeans") {
    return absl::InvalidArgumentError(
        absl::StrCat("emoe.partition.method '", options.method,
                     "' is not known, use kmeans, random, contiguous or file"));
  }
  if (options.restarts < 1) {
    return absl::InvalidArgumentError("emoe.partition.restarts must be at least 1");
  }
  return balanced_kmeans(rows, d_ff, hidden,
                         {.clusters = options.num_experts,
                          .restarts = options.restarts,
                          .seed = options.seed,
                          .stream = options.layer,
                          .threads = options.threads,
                          .on_work_done = options.on_work_done})
      .labels;
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

Result<Partition> make_partition(std::span<const float> gate_rows, int64_t d_ff, int64_t hidden,
                                 const PartitionOptions& options) {
  EMOE_RETURN_IF_ERROR(check_divides(d_ff, options.num_experts));
  if (hidden <= 0 || std::ssize(gate_rows) != d_ff * hidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("gate_proj has ", gate_rows.size(), " values, not ", d_ff, " x ", hidden));
  }
  const std::string weight_hash =
      options.weight_hash.empty()
          ? sha256_hex({reinterpret_cast<const char*>(gate_rows.data()), gate_rows.size_bytes()})
          : options.weight_hash;
  const bool cached = options.method == "kmeans" && !options.cache_dir.empty();
  if (cached) {
    std::optional<Partition> found =
        read_cache(cache_file(options, weight_hash), d_ff, weight_hash);
    if (found && found->num_experts == options.num_experts) return *std::move(found);
  }
  EMOE_ASSIGN_OR_RETURN(const std::vector<float> rows, normalised(gate_rows, hidden));
  Partition partition{.num_experts = options.num_experts,
                      .method = options.method,
                      .seed = options.seed,
                      .weight_hash = weight_hash};
  EMOE_ASSIGN_OR_RETURN(partition.labels, make_labels(rows, d_ff, hidden, options, weight_hash));
  partition.inertia = inertia_of(rows, hidden, partition.labels, options.num_experts);
  EMOE_RETURN_IF_ERROR(check_labels(partition, d_ff));
  if (cached) write_cache(cache_file(options, weight_hash), options.layer, partition);
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
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_input(file, InputKind::text));
  Result<Partition> partition = partition_from_json(text);
  if (!partition.ok()) return with_context(partition.status(), file.string());
  return partition;
}

}  // namespace emoe::worker
