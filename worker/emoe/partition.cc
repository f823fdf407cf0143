#include "worker/emoe/partition.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

// Part of the cache's names: raise it whenever the labels of a k-means could change.
constexpr int kAlgorithmVersion = 2;

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
  EMOE_ASSIGN_OR_RETURN(Partition stored, read_partition_for(options.folder, options.layer,
                                                             options.num_experts, d_ff));
  if (!options.tuned_since) {
    EMOE_RETURN_IF_ERROR(check_partition_weights(
        stored, partition_file(options.folder, options.layer), weight_hash));
  }
  return std::move(stored.labels);
}

std::filesystem::path cache_file(const PartitionOptions& options, const std::string& weight_hash) {
  const std::string key = sha256_hex(absl::StrFormat(
      "partition %d\n%s\n%d\n%s\n%d\n%d\n%d", kAlgorithmVersion, weight_hash, options.num_experts,
      options.method, options.seed, options.restarts, options.layer));
  return options.cache_dir / absl::StrCat("partition-", key.substr(0, 32), ".json");
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

// How far it is, for people: a wide layer takes some seconds a restart.
void log_restart(const PartitionOptions& options, const KmeansResult& result) {
  log_info("layer %d: restart %d of %d: inertia %.6g after %d iterations", options.layer,
           result.restart + 1, options.restarts, result.inertia, result.iterations);
}

Result<std::vector<int32_t>> kmeans_labels(const std::vector<float>& rows, int64_t d_ff,
                                           int64_t hidden, const PartitionOptions& options) {
  if (options.restarts < 1) {
    return absl::InvalidArgumentError("emoe.partition.restarts must be at least 1");
  }
  KmeansOptions kmeans{.clusters = options.num_experts,
                       .restarts = options.restarts,
                       .seed = options.seed,
                       .stream = options.layer,
                       .threads = options.threads,
                       .on_work_done = options.on_work_done,
                       .stop = options.stop};
  constexpr int64_t kSmall = 4'000'000;  // values; clustered before anyone has read the line
  if (d_ff * hidden > kSmall) {
    kmeans.on_restart = [&options](const KmeansResult& result) { log_restart(options, result); };
  }
  KmeansResult result = balanced_kmeans(rows, d_ff, hidden, kmeans);
  if (result.stopped) {
    return absl::CancelledError(
        "stopped as asked while experts were made; layers that were done "
        "are not made again");
  }
  return std::move(result.labels);
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
  return kmeans_labels(rows, d_ff, hidden, options);
}

}  // namespace

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

}  // namespace emoe::worker
