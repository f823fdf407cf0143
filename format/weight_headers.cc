#include "format/weight_headers.h"

#include <algorithm>
#include <set>
#include <string_view>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/input_file.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxIndexBytes = 16 << 20;

std::vector<std::string> in_file_order(const SafetensorsHeader& header) {
  std::vector<std::string> names;
  for (const auto& [name, info] : header.tensors) names.push_back(name);
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) {
    const TensorInfo& first = header.tensors.at(a);
    const TensorInfo& second = header.tensors.at(b);
    return std::pair(first.begin, first.end) < std::pair(second.begin, second.end);
  });
  return names;
}

Status no_weights(const fs::path& folder) {
  std::string hint;
  std::error_code error;
  if (has_entry(folder / "pytorch_model.bin") ||
      has_entry(folder / "pytorch_model.bin.index.json")) {
    hint = absl::StrCat(
        "; it has PyTorch .bin weights, which this program does not read; this puts "
        "model.safetensors beside them: python3 -c 'from transformers import AutoModelForCausalLM "
        "as M; M.from_pretrained(\"",
        folder.string(), "\", torch_dtype=\"auto\").save_pretrained(\"", folder.string(), "\")'");
  }
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!hint.empty() || entry.path().extension() != ".safetensors") continue;
    hint = absl::StrCat("; it has ", entry.path().filename().string(),
                        ", but not the index that says what lies where");
  }
  return absl::NotFoundError(
      absl::StrCat(folder.string(), ": neither ", kSingleFileName, " nor ", kIndexFileName, hint));
}

struct Index {
  std::map<std::string, std::string> shard_of;  // tensor → file
  uint64_t total_size = 0;                      // of all tensors; 0: not given
};

Result<Index> read_index(const fs::path& path) {
  const std::string source = path.string();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_input(path, InputKind::text, kMaxIndexBytes));
  const Result<json> object = parse_strict_json(text, source);
  if (!object.ok()) return absl::DataLossError(std::string(object.status().message()));
  if (!object->is_object() || !object->contains("weight_map") ||
      !(*object)["weight_map"].is_object()) {
    return absl::DataLossError(absl::StrCat(source, ": no object \"weight_map\""));
  }
  Index index;
  for (const auto& [name, shard] : (*object)["weight_map"].items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (fs::path(file).filename().string() != file || !file.ends_with(".safetensors")) {
      return absl::DataLossError(absl::StrCat(source, ": tensor \"", name, "\": ", shard.dump(),
                                              " is not the name of a .safetensors file"));
    }
    index.shard_of[name] = file;
  }
  if (index.shard_of.empty()) return absl::DataLossError(absl::StrCat(source, ": names no tensor"));
  const json metadata = object->value("metadata", json::object());
  if (metadata.is_object() && metadata.contains("total_size") &&
      metadata["total_size"].is_number_unsigned()) {
    index.total_size = metadata["total_size"].get<uint64_t>();
  }
  return index;
}

// Every tensor in the shard where the index has it, and nowhere else.
Status check_index(const fs::path& folder, const Index& index, WeightHeaders& weights) {
  for (const auto& [shard, header] : weights.shards) {
    for (const auto& [name, info] : header.tensors) {
      const auto found = index.shard_of.find(name);
      if (found != index.shard_of.end() && found->second == shard) continue;
      return absl::DataLossError(absl::StrCat(info.file, ": tensor \"", name,
                                              "\" is in this shard, but not by ", kIndexFileName));
    }
  }
  for (const auto& [name, shard] : index.shard_of) {
    if (weights.tensors.contains(name)) continue;
    return absl::DataLossError(absl::StrCat((folder / shard).string(), ": tensor \"", name,
                                            "\" is missing; ", kIndexFileName, " says it is here"));
  }
  uint64_t bytes = 0;
  for (const auto& [name, info] : weights.tensors) bytes += info.end - info.begin;
  if (index.total_size != 0 && index.total_size != bytes) {
    // Not an error: well-known checkpoints count tied tensors twice here.
    weights.warnings.push_back({.code = warning::kIndexSize,
                                .text = absl::StrCat("metadata.total_size is ", index.total_size,
                                                     ", the tensors have ", bytes, " bytes"),
                                .where = kIndexFileName});
  }
  return ok_status();
}

void add_shard(const std::string& name, SafetensorsHeader header, WeightHeaders& weights) {
  weights.tensors.insert(header.tensors.begin(), header.tensors.end());
  weights.shards.emplace(name, std::move(header));
}

// Says which tensors are passed over.
void warn_of_skipped(WeightHeaders& weights) {
  Warning warning{.code = warning::kTensorsSkipped, .count = 0};
  for (const auto& [name, info] : weights.tensors) {
    if (!is_skipped_tensor(name)) continue;
    if (warning.count++ == 0) warning.first = name;
  }
  if (warning.count == 0) return;
  warning.text =
      absl::StrCat(warning.count, " of ", weights.tensors.size(),
                   " tensors are not read: rotary buffers, which follow from config.json");
  warning.where = std::filesystem::path(weights.tensors.at(warning.first).file).filename();
  weights.warnings.push_back(std::move(warning));
}

// All that are missing, in one sentence.
Status check_shards_are_there(const fs::path& folder, const std::set<std::string>& shards) {
  std::vector<std::string> missing;
  std::error_code ignored;
  for (const std::string& shard : shards) {
    if (!fs::exists(folder / shard, ignored)) missing.push_back(shard);
  }
  if (missing.empty()) return ok_status();
  constexpr size_t kExamples = 3;
  const size_t count = missing.size();
  const bool link = has_entry(folder / missing.front());
  missing.resize(std::min(count, kExamples));
  return absl::NotFoundError(absl::StrCat(
      (folder / kIndexFileName).string(), ": ", count, " of its ", shards.size(), " shards ",
      count == 1 ? "is" : "are", " missing", link ? " (links to nothing)" : "", ": ",
      absl::StrJoin(missing, ", "), count > kExamples ? ", …" : ""));
}

Result<WeightHeaders> read_shards(const fs::path& folder, const Index& index) {
  std::set<std::string> shards;
  for (const auto& [name, shard] : index.shard_of) shards.insert(shard);
  EMOE_RETURN_IF_ERROR(check_shards_are_there(folder, shards));
  WeightHeaders weights;
  for (const std::string& shard : shards) {
    EMOE_ASSIGN_OR_RETURN(SafetensorsHeader header, read_safetensors_header(folder / shard));
    add_shard(shard, std::move(header), weights);
  }
  EMOE_RETURN_IF_ERROR(check_index(folder, index, weights));
  warn_of_skipped(weights);
  return weights;
}

}  // namespace

bool is_skipped_tensor(const std::string& name) {
  constexpr std::string_view kBuffers[] = {"rotary_emb.inv_freq", "rotary_emb.original_inv_freq",
                                           "rotary_emb.cos_cached", "rotary_emb.sin_cached"};
  return std::ranges::any_of(kBuffers, [&](std::string_view buffer) {
    return name.ends_with(std::string(".") + std::string(buffer));
  });
}

std::map<std::string, int64_t> WeightHeaders::dtypes() const {
  std::map<std::string, int64_t> counts;
  for (const auto& [name, info] : tensors) ++counts[info.dtype];
  return counts;
}

std::map<std::string, std::vector<std::string>> WeightHeaders::layout() const {
  std::map<std::string, std::vector<std::string>> layout;
  for (const auto& [shard, header] : shards) layout[shard] = in_file_order(header);
  return layout;
}

Result<WeightHeaders> read_weight_headers(const fs::path& folder) {
  // In the order in which transformers looks.
  Result<SafetensorsHeader> single = read_safetensors_header(folder / kSingleFileName);
  if (single.ok()) {
    WeightHeaders weights;
    add_shard(kSingleFileName, *std::move(single), weights);
    warn_of_skipped(weights);
    return weights;
  }
  if (!absl::IsNotFound(single.status()) || has_entry(folder / kSingleFileName)) {
    return single.status();
  }
  const Result<Index> index = read_index(folder / kIndexFileName);
  if (absl::IsNotFound(index.status()) && !has_entry(folder / kIndexFileName)) {
    return no_weights(folder);
  }
  EMOE_RETURN_IF_ERROR(index.status());
  return read_shards(folder, *index);
}

}  // namespace emoe
