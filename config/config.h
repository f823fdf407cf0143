#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "base/status.h"
#include "emoe/v1/job_spec.pb.h"
#include "emoe/v1/service_config.pb.h"

namespace emoe::config {

// Where each key of a message came from: "optimizer.learning_rate" → "job.yaml:12" or "--set".
using KeyLocations = std::map<std::string, std::string>;

// A job as given, with the places of its keys for errors found later.
struct LoadedJob {
  v1::JobSpec spec;
  KeyLocations locations;
};

// Reads a job file and applies `overrides` ("optimizer.learning_rate=1e-4", later ones win).
// Structure only: unknown keys (with near misses), wrong types and malformed YAML are added to
// `diagnostics` with "file:line" each; the keys that read well are in the answer all the same. Callers
// go on with check() into the same `diagnostics`, and report all of it at once.
// An error only if the file cannot be read (NOT_FOUND, …) or is something else than text (INVALID_ARGUMENT,
// base/input_file.h).
[[nodiscard]] Result<LoadedJob> load_job(const std::filesystem::path& file,
                                         const std::vector<std::string>& overrides,
                                         Diagnostics& diagnostics);
[[nodiscard]] LoadedJob parse_job(const std::string& yaml, const std::string& source_name,
                                  const std::vector<std::string>& overrides,
                                  Diagnostics& diagnostics);

// The spec with every default filled in; a resolved spec resolves to itself.
[[nodiscard]] v1::JobSpec resolve(const v1::JobSpec& spec);

// A model as the rules about it see it (its config.json, read through format/).
struct ModelShape {
  int64_t num_hidden_layers = 0;
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  std::map<std::string, int64_t> dtypes;  // how many tensors are stored in each: {{"F16", 291}}
};

// The parts that the rows of a step are dealt out in: parallel.ranks / parallel.tensor, at least 1.
[[nodiscard]] int replicas_of(const v1::JobSpec& resolved);

// All that can be checked of a spec without its files: fills in the defaults, then applies ranges,
// allowed words, required keys and rules across keys, says what this version does not do yet (and
// what works instead), and applies the rules about the model where `shape` is known; a random start
// brings its own shape. A violation's location is that of its key where `locations` knows it. A key
// that `diagnostics` names already, or that lies inside one it names, is not reported again.
// Returns the resolved spec, which is good if nothing was added. A default that goes against what the
// model says is a warning.
[[nodiscard]] v1::JobSpec check(const v1::JobSpec& spec, const KeyLocations& locations,
                                const std::optional<ModelShape>& shape, Diagnostics& diagnostics);
// The converted layers a spec names in a model of so many layers, ascending.
[[nodiscard]] std::vector<int64_t> converted_layers(const v1::JobSpec& resolved,
                                                    int64_t num_hidden_layers);

// The service's configuration, same reader; the answer is resolved and valid. NOT_FOUND if there is
// no such file, INVALID_ARGUMENT with every violation as for jobs. An empty text gives the
// defaults.
[[nodiscard]] Result<v1::CoordinatorConfig> parse_coordinator_config(
    const std::string& yaml, const std::string& source_name,
    const std::vector<std::string>& overrides);
[[nodiscard]] Result<v1::CoordinatorConfig> load_coordinator_config(
    const std::filesystem::path& file, const std::vector<std::string>& overrides);

// The file of auth.tokens, read likewise: INVALID_ARGUMENT with every violation, among them digests that
// are none and names or digests given twice. Nothing of a token but its name is in a message.
[[nodiscard]] Result<v1::TokenFile> parse_token_file(const std::string& yaml,
                                                     const std::string& source_name);

// Any message as YAML / JSON for people and scripts, with the names and the order of the proto files.
// A job's YAML is exactly readable by parse_job (floats in full precision). `indent` -1: on one line,
// for streams of messages.
[[nodiscard]] std::string message_to_yaml(const google::protobuf::Message& message);
[[nodiscard]] std::string message_to_json(const google::protobuf::Message& message, int indent = 2);

// The keys in which two texts of message_to_yaml() differ, each with both values: "train.max_steps is 12,
// was 8".
[[nodiscard]] std::vector<std::string> changed_keys(const std::string& before,
                                                    const std::string& now);

// Calls `change` with every file or folder a spec names (key, path; of a list "merge.adapters[0]", …)
// and puts its answer there.
using PathChange = std::function<std::string(const std::string& key, const std::string& path)>;
void change_paths(v1::JobSpec& spec, const PathChange& change);
// Makes relative paths in a spec absolute against `base` (emoectl does it before submitting).
void make_paths_absolute(v1::JobSpec& spec, const std::filesystem::path& base);
// True for a key of a job file ("emoe.layers.list[1]", "labels.team").
[[nodiscard]] bool is_job_key(const std::string& key);
// The place of a key, or of the nearest mapping around it that was written down, or of the file (the
// key ""), or empty if `locations` has nothing.
[[nodiscard]] std::string locate(const KeyLocations& locations, std::string key);

}  // namespace emoe::config
