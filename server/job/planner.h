#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "emoe/v1/job.pb.h"
#include "format/decoder_config.h"
#include "plan/time_model.h"
#include "server/job/job_warnings.h"

namespace emoe::server {

// A kind of GPU, as ranks on one have found it.
struct GpuType {
  std::string name;   // "NVIDIA H200"
  int64_t bytes = 0;  // that a job finds free; 0: not known
};

// What there is for jobs, as far as the coordinator knows.
struct Capacity {
  int64_t host_bytes = 0;         // memory of a host; 0: not known
  int64_t device_bytes = 0;       // of a GPU, as configured; 0: ask known_gpu
  bool multiplies_halves = true;  // the hosts' processors have instructions for bf16
  bool gpus = false;              // ranks with resources.device auto compute on one
  bool one_host = true;           // all ranks of a job share host_bytes; else a rank has it alone
  int slots = 0;                  // ranks that a job may have; 0: not known
  int gpu_slots = 0;              // … with a GPU each
  std::filesystem::path output_root;  // empty: no disk is looked at
  std::string processor;              // of the ranks' hosts; empty: not known
  int threads_per_rank = 1;           // where a job does not say
  // Of the kinds of GPU that ranks have told of, the one with least; empty: none.
  std::function<GpuType()> known_gpu = {};
  // The kinds of runs that have finished (see kind_of_run()), the newest first.
  std::function<std::vector<std::string>()> learned_kinds = {};
  // The runs of a kind.
  std::function<std::vector<FinishedRun>(const std::string& kind)> finished_runs = {};
};

// A resolved spec without problems, and what admission has read of its files.
struct PlanInputs {
  const v1::JobSpec& spec;
  const v1::JobSpec& given;                 // what it was resolved from
  std::optional<config::ModelShape> shape;  // of model.path, for the rules about it
  const std::optional<DecoderConfig>
      model;                        // of a random start, too; nothing where it is not known
  int64_t stored_weight_bytes = 0;  // of model.path
  const SpecFacts& facts;
};

// What the job will need; without its place in the queue. Where it does not fit, see find_remedies().
[[nodiscard]] v1::Plan plan_of(const PlanInputs& inputs, const Capacity& capacity);
// Of a job that exports a checkpoint of a training with this plan, and does nothing else.
[[nodiscard]] v1::Plan plan_of_export(const v1::Plan& training, const Capacity& capacity);
// Fills in what follows from a plan's numbers: whether the job fits into memory and disk.
void judge(v1::Plan& plan);

// FAILED_PRECONDITION: MODEL_DOES_NOT_FIT where a rank takes more memory than there is, DISK_TOO_SMALL
// where the job's files would not fit; with both numbers.
[[nodiscard]] Status check_fits(const v1::Plan& plan);

}  // namespace emoe::server
