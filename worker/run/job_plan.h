#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/warning.h"
#include "data/choice_suite.h"
#include "format/decoder_config.h"
#include "text/dataset.h"
#include "worker/emoe/options.h"
#include "worker/emoe/partition.h"
#include "worker/model/lora_options.h"
#include "worker/train/train_options.h"

namespace emoe::v1 {
class JobSpec;
}

namespace emoe::worker {

// SHA-256 of the files a run computes with; empty where there is none (or, of a job as given, none
// was said).
struct ContentHashes {
  std::string model;  // config.json and weights
  std::string tokenizer;
  std::string train;
  std::string eval;
  std::string program;    // of this executable
  std::string adapter;    // the adapter's weights and settings
  std::string partition;  // the files of emoe.partition.path, with method file
  std::string suite;      // the files of evaluate.path that are read
};

// How each hash is used: code that goes through all of them reads this table.
struct ContentField {
  const char* key;  // of the spec's `hashes`
  std::string ContentHashes::*hash;
  const char* source;          // what a run is given it by; null: recorded, never compared
  const char* rank_word;       // what ranks must have read alike; null: no hash of theirs says it
  bool in_fingerprint;         // a checkpoint is of a run with this content
  bool may_be_absent = false;  // changes no weight: a run of the same job may do with or without
};
inline constexpr std::array kContentFields{
    ContentField{"model", &ContentHashes::model, "model.path", "base model", true},
    ContentField{"tokenizer", &ContentHashes::tokenizer, "the tokenizer", "tokenizer", true},
    // A checkpoint has a fingerprint of the rows themselves.
    ContentField{"train", &ContentHashes::train, "data.train", "data.train", false},
    ContentField{"eval", &ContentHashes::eval, "data.eval", "data.eval", false, true},
    ContentField{"program", &ContentHashes::program, nullptr, nullptr, false},
    ContentField{"adapter", &ContentHashes::adapter, "the adapter", "adapter", true},
    // The fingerprint has the labels, wherever they come from.
    ContentField{"partition", &ContentHashes::partition, "emoe.partition.path", nullptr, false},
    ContentField{"suite", &ContentHashes::suite, "evaluate.path", "evaluate.path", false, true},
};

// What becomes of the trained (or merged) model, see weights/export.h.
struct ExportPlan {
  std::string dtype = "auto";
  bool merged = true;
  bool adapter = true;
  bool verify = true;
  bool original_order = true;  // false: of converted layers expert after expert
};

struct TrainPlan {
  bool full = false;
  bool recompute = false;  // see ModelOptions
  LoraOptions lora;        // rank 0 with full
  DatasetOptions data;
  TrainOptions options;  // checkpoint.folder and .fingerprint are filled in by the run
  ExportPlan export_model;
};

struct EvaluatePlan {
  MicroBatchOptions micro_batches;
};

struct AdapterMergePlan {
  struct Part {
    std::filesystem::path adapter;  // PEFT folder
    double weight = 1.0;            // of its delta
  };
  std::vector<Part> parts;  // at least one
  ExportPlan export_model;
};

struct ConvertPlan {
  bool restores = false;  // the model's own neuron_order/ is undone; else experts are made
  bool permutes = false;  // and the model is written in their order
  bool verify = true;
};

// Nothing but the checks that JobPlan::preflight asks for.
struct PreflightPlan {};

// A job's spec as the worker's parts take it: plain options, no protobuf, no LibTorch. Members
// common to all tasks, and the plan of the one task.
struct JobPlan {
  int ranks = 1;  // of this run: RankSession takes those that were started, where that is allowed
  int min_ranks = 0;         // 0: no fewer than ranks
  int tensor = 1;            // so many ranks share each layer
  bool shard_base = false;   // the ranks share the base's weights
  int threads_per_rank = 0;  // 0: as the launcher says, see threads_of_rank()
  std::string device;        // auto | cpu | cuda

  struct Model {
    std::filesystem::path path;  // empty: a random start
    DecoderConfig config;
    // Folder or tokenizer.model; empty: the folder has none, and the task reads no text.
    std::filesystem::path tokenizer;
    int64_t init_seed = 0;
    double initializer_range = 0.02;
    bool bfloat16 = false;
  } model;

  // PEFT folder of the adapter that the model begins with; empty: none, or to train, a new one (a
  // merge has its own).
  std::filesystem::path adapter;

  struct Emoe {
    ExpertRouting routing;        // no experts: dense
    std::vector<int64_t> layers;  // converted, ascending
    PartitionOptions partition;   // method, restarts, seed, folder; make_experts() adds the rest
  } emoe;

  std::optional<DatasetOptions> eval_data;
  struct Suite {
    std::string name;
    data::SuiteOptions files;
    int64_t max_length = 0;  // tokens of a question with its shots
    int64_t max_tokens = 0;  // of a forward pass
  };
  std::optional<Suite> suite;
  // Where the job leaves the tokens of a forward pass to the run, which has those of a CPU until then (see
  // micro_batch_choice.h): data.max_length.
  std::optional<int64_t> longest_row;
  int64_t log_every = 1;  // steps between progress lines

  bool preflight = false;  // the run begins with one

  std::variant<TrainPlan, EvaluatePlan, AdapterMergePlan, ConvertPlan, PreflightPlan> task;
  [[nodiscard]] const TrainPlan* train() const { return std::get_if<TrainPlan>(&task); }
  [[nodiscard]] const AdapterMergePlan* merge() const {
    return std::get_if<AdapterMergePlan>(&task);
  }
  [[nodiscard]] bool has_inputs() const { return !std::holds_alternative<PreflightPlan>(task); }

  [[nodiscard]] const ConvertPlan* convert() const { return std::get_if<ConvertPlan>(&task); }
  // Tasks that read weights and write them, on the CPU, and read no text.
  [[nodiscard]] bool only_weights() const { return merge() != nullptr || convert() != nullptr; }

  bool strict = false;                      // warnings are errors
  std::vector<Warning> warnings;            // about the spec
  ContentHashes expected;                   // those the job came with
  std::shared_ptr<const v1::JobSpec> spec;  // with every default; only job_plan.cc sees into it
  std::string identity;  // its keys that change numbers, paths left out: two runs with one identity
                         // (and equal files) give the same weights
};

// Reads a job file, applies overrides and defaults, and checks all that needs no data: every
// problem at once, as a JobError (64) of "file:line: key: reason" lines; 65 for a config.json that
// is not understood, where that is the only one.
[[nodiscard]] JobPlan plan_job(const std::filesystem::path& job_file,
                               const std::vector<std::string>& overrides);

// The plan's spec with these hashes in it: the text of job.yaml.
[[nodiscard]] std::string yaml_with_hashes(const JobPlan& plan, const ContentHashes& hashes);

// Only what `emoe-worker logits` takes from a job file: model.dtype and the emoe section, for a model
// of this configuration. A `partition` folder, if not empty, takes the place of emoe.partition. A
// JobError (64) for what is wrong with these keys or with the structure of the file; other keys may
// have any values.
struct LogitsPlan {
  bool bfloat16 = false;
  JobPlan::Emoe emoe;
};
[[nodiscard]] LogitsPlan plan_logits(const std::filesystem::path& job_file,
                                     const std::filesystem::path& partition,
                                     const DecoderConfig& config);

// Reads the job.yaml that an earlier run left; JobError 64 where it cannot be read.
struct StoredJob {
  std::string identity;
  ContentHashes hashes;  // all empty: that run ended before it had read its files
};
[[nodiscard]] StoredJob read_stored_job(const std::filesystem::path& job_yaml);
// Where the identities of the two differ: "train.max_steps is 12, was 8".
[[nodiscard]] std::vector<std::string> changed_keys(const StoredJob& before, const JobPlan& now);

}  // namespace emoe::worker
