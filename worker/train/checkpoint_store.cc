#include "worker/train/checkpoint_store.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/strip.h>
#include <nlohmann/json.hpp>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "format/dtype.h"

namespace emoe::worker {
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr char kExtension[] = ".safetensors";
constexpr const char* kStateFile = "state.json";
constexpr int kManifestVersion = 1;

// Of shard `shard`, from 0.
std::string file_of_shard(const std::string& file, int shard, int shards) {
  if (shards == 1) return file;
  return absl::StrFormat("%s-%05d-of-%05d%s", file.substr(0, file.size() - strlen(kExtension)),
                         shard + 1, shards, kExtension);
}

const std::map<std::string, std::string> kMetadata = {{"format", "pt"}};

// The files of one shard.
std::vector<std::string> names_of_shard(const std::string& weights, int shard, int shards) {
  return {file_of_shard(weights, shard, shards), file_of_shard(kOptimizerFile, shard, shards)};
}

std::string folder_name(int64_t step) {
  return absl::StrFormat("step_%08d", step);
}

// The step of "step_00000050"; nothing for other names, "step_00000050.tmp" included.
std::optional<int64_t> step_of(const std::string& name) {
  int64_t step = 0;
  absl::string_view digits = name;
  const bool parsed = absl::ConsumePrefix(&digits, "step_") && absl::SimpleAtoi(digits, &step);
  return parsed && name == folder_name(step) ? std::optional(step) : std::nullopt;
}

// Steps of the finished checkpoints in a folder, newest first.
Result<std::vector<int64_t>> steps_in(const std::filesystem::path& folder) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (const auto step = step_of(entry.path().filename())) steps.push_back(*step);
  }
  if (error) return errno_status(error.value(), "cannot list " + folder.string());
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

// Adds what a file has.
Status read_tensors(const std::filesystem::path& path, TensorMap& tensors) {
  EMOE_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::open(path));
  for (const auto& [name, info] : file.tensors()) {
    EMOE_ASSIGN_OR_RETURN(tensors[name], file.tensor(name));
  }
  return ok_status();
}

std::string state_json(const TrainState& state) {
  return nlohmann::ordered_json{
             {"version", 1},
             {"step", state.step},
             {"seed", state.seed},
             {"world_size", state.world_size},
             {"last_eval_step", state.last_eval_step},
             {"fingerprint", state.fingerprint},
             {"data_fingerprint", state.data_fingerprint},
             {"expert_counts", nlohmann::ordered_json::parse(state.expert_counts.to_json())}}
             .dump(1) +
         "\n";
}

Result<TrainState> parse_state(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    TrainState state;
    state.step = json.at("step").get<int64_t>();
    state.seed = json.at("seed").get<int64_t>();
    state.world_size = json.at("world_size").get<int>();
    state.last_eval_step = json.at("last_eval_step").get<int64_t>();
    state.fingerprint = json.at("fingerprint").get<std::string>();
    state.data_fingerprint = json.at("data_fingerprint").get<std::string>();
    state.expert_counts = ExpertCounts::from_json(json.at("expert_counts").dump());
    return state;
  } catch (const nlohmann::json::exception& error) {
    return absl::DataLossError(absl::StrCat(kStateFile, ": ", error.what()));
  } catch (const std::invalid_argument& error) {
    return absl::DataLossError(absl::StrCat(kStateFile, ": ", error.what()));
  }
}

Status damaged(const std::string& file, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": ", what));
}

// How much is read: sizes find what a crash tore, hashes what a disk bent too.
enum class Depth { sizes, hashes };

// One file against its entry in the manifest.
Status verify_file(const std::filesystem::path& folder, const nlohmann::json& entry, Depth depth,
                   const std::function<void()>& on_work_done) {
  const auto name = entry.at("name").get<std::string>();
  if (name.find('/') != std::string::npos) return damaged(name, "not a file of this folder");
  std::error_code error;
  const auto size = std::filesystem::file_size(folder / name, error);
  if (error == std::errc::no_such_file_or_directory) return damaged(name, "missing");
  if (error) return errno_status(error.value(), (folder / name).string());
  const auto expected = entry.at("bytes").get<uint64_t>();
  if (size != expected) {
    return damaged(name, absl::StrCat("has ", size, " bytes, its manifest says ", expected));
  }
  if (depth == Depth::sizes) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(folder / name, on_work_done));
  if (hash != entry.at("sha256").get<std::string>()) {
    return damaged(name, "its SHA-256 is not the one of the manifest");
  }
  return ok_status();
}

// The entries of files in a manifest: sizes and hashes of `names` in `folder`.
Result<nlohmann::ordered_json> entries_of(const std::filesystem::path& folder,
                                          const std::vector<std::string>& names,
                                          const std::function<void()>& on_work_done) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const std::string& name : names) {
    std::error_code error;
    const auto size = std::filesystem::file_size(folder / name, error);
    if (error) return errno_status(error.value(), folder / name);
    EMOE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(folder / name, on_work_done));
    files.push_back({{"name", name}, {"bytes", size}, {"sha256", hash}});
  }
  return files;
}

// Which files a manifest must name, of so many shards.
using FilesOfShards = std::function<std::vector<std::string>(int shards)>;

// The step it is of; DATA_LOSS saying what is missing or differs, when the folder does not hold
// exactly what its manifest says, or what it must name is not among it. Any other error says that it
// could not be looked at.
Result<int64_t> verify_manifest(const std::filesystem::path& folder, const FilesOfShards& files,
                                Depth depth, const std::function<void()>& on_work_done) {
  const Result<std::string> text = read_file(folder / kCheckpointManifestFile);
  if (absl::IsNotFound(text.status())) return damaged(kCheckpointManifestFile, "missing");
  if (!text.ok()) return text.status();
  try {
    const auto json = nlohmann::json::parse(*text);
    if (json.at("version").get<int>() != kManifestVersion) {
      return damaged(kCheckpointManifestFile, "of another version");
    }
    const std::vector<std::string> names = files(json.value("shards", 1));
    std::set<std::string> missing(names.begin(), names.end());
    for (const auto& entry : json.at("files")) {
      EMOE_RETURN_IF_ERROR(verify_file(folder, entry, depth, on_work_done));
      missing.erase(entry.at("name").get<std::string>());
    }
    if (missing.empty()) return json.at("step").get<int64_t>();
    return damaged(kCheckpointManifestFile, "does not name " + *missing.begin());
  } catch (const nlohmann::json::exception& error) {
    return damaged(kCheckpointManifestFile, error.what());
  }
}

// As the manifest of a checkpoint found valid says.
Result<int> shards_of(const std::filesystem::path& folder) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(folder / kCheckpointManifestFile));
  try {
    return nlohmann::json::parse(text).value("shards", 1);
  } catch (const nlohmann::json::exception& error) {
    return damaged(kCheckpointManifestFile, error.what());
  }
}

// A finished checkpoint.
Result<CheckpointFolder> describe(const std::filesystem::path& path) {
  CheckpointFolder folder{path, 0, {}};
  try {
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      folder.bytes += static_cast<int64_t>(entry.file_size());
    }
    folder.written = std::chrono::file_clock::to_sys(std::filesystem::last_write_time(path));
  } catch (const std::filesystem::filesystem_error& error) {
    return errno_status(error.code().value(), "look at " + path.string());
  }
  return folder;
}

}  // namespace

CheckpointStore::CheckpointStore(std::filesystem::path folder, std::string weights_file,
                                 int64_t keep, std::function<void()> on_work_done)
    : folder_(std::move(folder)),
      weights_file_(std::move(weights_file)),
      keep_(std::max<int64_t>(1, keep)),
      on_work_done_(std::move(on_work_done)) {}

Status CheckpointStore::prepare() const {
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder_));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    if (entry.path().extension() == ".tmp" && step_of(entry.path().stem())) {
      EMOE_RETURN_IF_ERROR(remove_tree(entry.path()));
    }
  }
  return error ? errno_status(error.value(), "list " + folder_.string()) : ok_status();
}

std::filesystem::path CheckpointStore::path_of(int64_t step) const {
  return folder_ / folder_name(step);
}

std::filesystem::path CheckpointStore::unfinished(int64_t step) const {
  return folder_ / (folder_name(step) + ".tmp");
}

Status CheckpointStore::begin(int64_t step) const {
  EMOE_RETURN_IF_ERROR(remove_tree(unfinished(step)));
  return emoe::create_directories(unfinished(step));
}

Result<std::string> CheckpointStore::write_shard(const Checkpoint& own, int shard,
                                                 int shards) const {
  const auto folder = unfinished(own.state.step);
  const std::vector<std::string> names = names_of_shard(weights_file_, shard, shards);
  EMOE_RETURN_IF_ERROR(write_tensors(folder / names[0], own.weights, kMetadata, on_work_done_));
  EMOE_RETURN_IF_ERROR(write_tensors(folder / names[1], own.optimizer, kMetadata, on_work_done_));
  EMOE_ASSIGN_OR_RETURN(const auto entries, entries_of(folder, names, on_work_done_));
  return entries.dump();
}

Status CheckpointStore::write_made(const std::filesystem::path& path,
                                   const std::vector<MadeTensor>& tensors) const {
  std::vector<SafetensorsWriter::Planned> plan;
  const auto is_stored = [](const MadeTensor& tensor) {
    return c10::multiply_integers(tensor.shape) > 0;
  };
  for (const MadeTensor& tensor : tensors) {
    if (is_stored(tensor)) plan.push_back({tensor.name, dtype_name(at::kFloat), tensor.shape});
  }
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(path, std::move(plan), kMetadata);
  Status status = writer.status();
  for (const MadeTensor& tensor : tensors) {
    const at::Tensor made = tensor.make();
    if (status.ok() && is_stored(tensor)) status = writer->write(made);
    on_work_done_();
  }
  return status.ok() ? writer->close() : status;
}

Result<std::string> CheckpointStore::write_shard(int64_t step, const MadeShard& own, int shard,
                                                 int shards) const {
  const auto folder = unfinished(step);
  const std::vector<std::string> names = names_of_shard(weights_file_, shard, shards);
  const Status weights = write_made(folder / names[0], own.weights);
  const Status optimizer = write_made(folder / names[1], own.optimizer);
  EMOE_RETURN_IF_ERROR(weights);
  EMOE_RETURN_IF_ERROR(optimizer);
  EMOE_ASSIGN_OR_RETURN(const auto entries, entries_of(folder, names, on_work_done_));
  return entries.dump();
}

Status CheckpointStore::finish(const TrainState& state,
                               const std::vector<std::string>& written) const {
  const auto folder = unfinished(state.step);
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / kStateFile, state_json(state)));
  EMOE_ASSIGN_OR_RETURN(auto files, entries_of(folder, {kStateFile}, on_work_done_));
  for (const std::string& entries : written) {
    for (auto& entry : nlohmann::ordered_json::parse(entries)) files.push_back(std::move(entry));
  }
  nlohmann::ordered_json manifest = {{"version", kManifestVersion}, {"step", state.step}};
  if (written.size() > 1) manifest["shards"] = written.size();
  manifest["files"] = std::move(files);
  EMOE_RETURN_IF_ERROR(
      write_file_atomically(folder / kCheckpointManifestFile, manifest.dump(1) + "\n"));
  EMOE_RETURN_IF_ERROR(sync_directory(folder));
  // A folder of this step that exists was found invalid, or belongs to an abandoned run: replace it.
  EMOE_RETURN_IF_ERROR(remove_tree(path_of(state.step)));
  return rename_durably(folder, path_of(state.step));
}

Result<CheckpointFolder> CheckpointStore::commit(const TrainState& state,
                                                 const std::vector<std::string>& written) const {
  if (const Status status = finish(state, written); !status.ok()) {
    abandon(state.step);
    return with_context(status, "checkpoint " + folder_name(state.step));
  }
  remove_old(state.step);
  return describe(path_of(state.step));
}

void CheckpointStore::abandon(int64_t step) const {
  if (const Status removed = remove_tree(unfinished(step)); !removed.ok()) {
    log_warning("%s", removed.ToString());
  }
}

Result<CheckpointFolder> CheckpointStore::save(const Checkpoint& checkpoint) const {
  const Status begun = begin(checkpoint.state.step);
  return end(checkpoint.state, begun.ok() ? write_shard(checkpoint, 0, 1) : begun);
}

Result<CheckpointFolder> CheckpointStore::save(const TrainState& state,
                                               const MadeShard& all) const {
  const Status begun = begin(state.step);
  return end(state, begun.ok() ? write_shard(state.step, all, 0, 1) : begun);
}

Result<CheckpointFolder> CheckpointStore::end(const TrainState& state,
                                              const Result<std::string>& written) const {
  if (written.ok()) return commit(state, {*written});
  abandon(state.step);
  return with_context(written.status(), "checkpoint " + folder_name(state.step));
}

// Checkpoints after `newest_step` were found torn when this run resumed: they do not count, and stay
// for inspection until the run reaches their step and replaces them.
void CheckpointStore::remove_old(int64_t newest_step) const {
  const Result<std::vector<int64_t>> steps = steps_in(folder_);
  if (!steps.ok()) return log_warning("old checkpoints not removed: %s", steps.status().ToString());
  int64_t kept = 0;
  for (const int64_t step : *steps) {
    if (step > newest_step) continue;
    const auto path = folder_ / folder_name(step);
    if (kept < keep_) {
      // A torn checkpoint is no fallback; comparing sizes suffices to find one here.
      if (verify(path, /*hashes=*/false).ok()) ++kept;
    } else if (const Status removed = remove_tree(path); !removed.ok()) {
      log_warning("old checkpoint not removed: %s", removed.ToString());
    }
  }
}

std::vector<std::string> CheckpointStore::files(int shards) const {
  std::vector<std::string> names = {kStateFile};
  for (int shard = 0; shard < shards; ++shard) {
    names.push_back(file_of_shard(weights_file_, shard, shards));
    names.push_back(file_of_shard(kOptimizerFile, shard, shards));
  }
  return names;
}

Result<int64_t> CheckpointStore::verify(const std::filesystem::path& path, bool hashes) const {
  return verify_manifest(
      path, [this](int shards) { return files(shards); }, hashes ? Depth::hashes : Depth::sizes,
      on_work_done_);
}

Result<std::optional<CheckpointFolder>> CheckpointStore::newest_valid(
    std::vector<std::string>& skipped) const {
  EMOE_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, steps_in(folder_));
  for (const int64_t step : steps) {
    const auto path = folder_ / folder_name(step);
    const auto found = verify(path, /*hashes=*/true);
    if (found.ok() && *found == step) {
      return describe(path);
    }
    if (!found.ok() && !absl::IsDataLoss(found.status())) {
      return with_context(found.status(), "checkpoint " + folder_name(step));
    }
    skipped.push_back(absl::StrCat(
        folder_name(step), " is passed over: ",
        found.ok() ? "its manifest is of another step" : std::string(found.status().message())));
  }
  return std::nullopt;
}

Result<Checkpoint> CheckpointStore::load(const std::filesystem::path& path) const {
  Checkpoint checkpoint;
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path / kStateFile));
  EMOE_ASSIGN_OR_RETURN(checkpoint.state, parse_state(text));
  EMOE_ASSIGN_OR_RETURN(const int shards, shards_of(path));
  for (int shard = 0; shard < shards; ++shard) {
    const auto file = [&](const std::string& name) {
      return path / file_of_shard(name, shard, shards);
    };
    EMOE_RETURN_IF_ERROR(read_tensors(file(weights_file_), checkpoint.weights));
    EMOE_RETURN_IF_ERROR(read_tensors(file(kOptimizerFile), checkpoint.optimizer));
  }
  return checkpoint;
}

}  // namespace emoe::worker
