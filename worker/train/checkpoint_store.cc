#include "worker/train/checkpoint_store.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "worker/train/manifest.h"

namespace emoe::worker {
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr const char* kFirst = "exp_avg.";
constexpr const char* kSecond = "exp_avg_sq.";

std::string folder_name(int64_t step) {
  return absl::StrFormat("step_%08d", step);
}

// The step of "step_00000050"; nothing for other names, "step_00000050.tmp" included.
std::optional<int64_t> step_of(const std::string& name) {
  int64_t step = 0;
  if (name.rfind("step_", 0) != 0) return std::nullopt;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + 5, end, step);
  if (error != std::errc() || stopped != end || name != folder_name(step)) return std::nullopt;
  return step;
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

Result<TensorMap> read_tensors(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::open(path));
  TensorMap tensors;
  for (const auto& [name, info] : file.tensors()) {
    EMOE_ASSIGN_OR_RETURN(tensors[name], file.tensor(name));
  }
  return tensors;
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

// A finished one.
Result<CheckpointFolder> describe(const std::filesystem::path& path, int64_t step) {
  CheckpointFolder folder{path, step, 0, {}};
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

Status CheckpointStore::write_files(const std::filesystem::path& folder,
                                    const Checkpoint& checkpoint) const {
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  EMOE_RETURN_IF_ERROR(
      write_tensors(folder / weights_file_, checkpoint.weights, metadata, on_work_done_));
  TensorMap moments;
  for (const auto& [name, tensor] : checkpoint.first_moments) moments[kFirst + name] = tensor;
  for (const auto& [name, tensor] : checkpoint.second_moments) moments[kSecond + name] = tensor;
  EMOE_RETURN_IF_ERROR(write_tensors(folder / kOptimizerFile, moments, metadata, on_work_done_));
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / kStateFile, state_json(checkpoint.state)));
  EMOE_RETURN_IF_ERROR(write_manifest(folder, checkpoint.state.step, files(), on_work_done_));
  return sync_directory(folder);
}

Result<CheckpointFolder> CheckpointStore::save(const Checkpoint& checkpoint) const {
  const int64_t step = checkpoint.state.step;
  const auto path = folder_ / folder_name(step);
  const auto unfinished = folder_ / (folder_name(step) + ".tmp");
  EMOE_RETURN_IF_ERROR(remove_tree(unfinished));
  Status status = write_files(unfinished, checkpoint);
  // A folder of this step that exists was found invalid, or belongs to an abandoned run: replace it.
  if (status.ok()) status = remove_tree(path);
  if (status.ok()) status = rename_durably(unfinished, path);
  if (!status.ok()) {
    if (const Status removed = remove_tree(unfinished); !removed.ok()) {
      log_warning("%s", removed.ToString());
    }
    return with_context(status, "checkpoint " + folder_name(step));
  }
  remove_old(step);
  return describe(path, step);
}

// Checkpoints after `newest_step` are of a course this run did not take (they were torn): they do
// not count, and stay for people to look at until their step comes again.
void CheckpointStore::remove_old(int64_t newest_step) const {
  const Result<std::vector<int64_t>> steps = steps_in(folder_);
  if (!steps.ok()) return log_warning("old checkpoints not removed: %s", steps.status().ToString());
  int64_t kept = 0;
  for (const int64_t step : *steps) {
    if (step > newest_step) continue;
    const auto path = folder_ / folder_name(step);
    if (kept < keep_) {
      // A torn one is not one to fall back on. Its sizes tell enough here.
      if (verify_manifest(path, files(), Depth::sizes, on_work_done_).ok()) ++kept;
    } else if (const Status removed = remove_tree(path); !removed.ok()) {
      log_warning("old checkpoint not removed: %s", removed.ToString());
    }
  }
}

std::vector<std::string> CheckpointStore::files() const {
  return {weights_file_, kOptimizerFile, kStateFile};
}

Result<std::optional<CheckpointFolder>> CheckpointStore::newest_valid(
    std::vector<std::string>& skipped) const {
  EMOE_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, steps_in(folder_));
  for (const int64_t step : steps) {
    const auto path = folder_ / folder_name(step);
    const auto found = verify_manifest(path, files(), Depth::hashes, on_work_done_);
    if (found.ok() && *found == step) {
      return describe(path, step);
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
  EMOE_ASSIGN_OR_RETURN(checkpoint.weights, read_tensors(path / weights_file_));
  EMOE_ASSIGN_OR_RETURN(const TensorMap moments, read_tensors(path / kOptimizerFile));
  for (const auto& [name, tensor] : moments) {
    if (name.rfind(kSecond, 0) == 0) {
      checkpoint.second_moments[name.substr(std::string(kSecond).size())] = tensor;
    } else if (name.rfind(kFirst, 0) == 0) {
      checkpoint.first_moments[name.substr(std::string(kFirst).size())] = tensor;
    }
  }
  return checkpoint;
}

}  // namespace emoe::worker
