#include "worker/run/rank_session.h"

#include <algorithm>
#include <chrono>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "base/attempt_contract.h"
#include "base/diagnostics.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/read_roots.h"
#include "base/sha256.h"
#include "plan/rank_memory.h"
#include "worker/device/block_cache.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/device/device_memory.h"
#include "worker/errors.h"
#include "worker/run/experts.h"
#include "worker/run/ffn_choice.h"
#include "worker/run/micro_batch_choice.h"
#include "worker/train/batch_plan.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

void check_world_size(const JobPlan& plan, const RankEnvironment& environment) {
  const bool enough = plan.min_ranks > 0 && environment.world_size >= plan.min_ranks &&
                      environment.world_size <= plan.ranks &&
                      environment.world_size % plan.tensor == 0;
  // Before the data is read; MPI_Init would say it in its own way, with exit code 1.
  const bool fits = enough || plan.ranks == environment.world_size;
  if (environment.no_pmix && environment.world_size > 1 && fits) {
    throw JobError(
        ExitCode::configuration,
        "srun was not told --mpi=pmix, without which its tasks cannot form one MPI world; "
        "start it with srun --mpi=pmix");
  }
  if (fits) return;
  const std::string launcher = environment.said_by.starts_with("SLURM") ? "srun" : "mpirun";
  const std::string started = environment.launched
                                  ? absl::StrCat(environment.said_by, "=", environment.world_size,
                                                 " says how many were started")
                                  : "this process was started by itself";
  throw JobError(
      ExitCode::configuration,
      absl::StrCat(
          "parallel.ranks is ", plan.ranks,
          plan.min_ranks > 0 ? absl::StrCat(" and parallel.min_ranks ", plan.min_ranks) : "",
          plan.tensor > 1 ? absl::StrCat(" in groups of ", plan.tensor, " (parallel.tensor)") : "",
          ", but ", started, "; start it with ", launcher, " -n ", plan.ranks,
          ", or set parallel.ranks=", environment.world_size,
          environment.world_size % plan.tensor != 0 ? " and parallel.tensor to what divides it"
                                                    : ""));
}

int set_threads(const JobPlan& plan, const RankEnvironment& environment) {
  at::set_num_threads(threads_of_rank(environment, plan.threads_per_rank, usable_cores()));
  keep_freed_memory();
  const int threads = at::get_num_threads();
  log_info("rank %d of %d computes with %d %s", environment.rank, environment.world_size, threads,
           threads == 1 ? "thread" : "threads");
  return threads;
}

// Adds to the plan's warnings where a GPU is there and not used.
at::Device device_of(JobPlan& plan, const RankEnvironment& environment) {
  if (plan.only_weights()) return at::kCPU;
  std::string unused_gpu;
  try {
    const at::Device device = find_device(plan.device, environment.gpu, unused_gpu);
    if (unused_gpu.empty()) return device;
    plan.warnings.push_back(
        {.code = warning::kGpuUnused,
         .text = "the run computes on the CPU, although there is a GPU: " + unused_gpu,
         .where = "resources.device"});
    return device;
  } catch (const std::invalid_argument& error) {
    throw JobError(ExitCode::configuration, absl::StrCat("resources.device: ", error.what()));
  }
}

// How a training run's rows will fill its forward passes.
PackingReport packing_or_throw(const std::vector<Row>& rows, const JobPlan& plan) {
  const TrainOptions& options = plan.train()->options;
  auto packing = packing_of(rows, options.batches, options.micro_batches, plan.ranks / plan.tensor);
  if (packing.ok()) return *packing;
  throw JobError(ExitCode::configuration, packing.status());
}

// What is computed once because rows begin alike, or why it is not.
void tell_of_sharing(const PackingReport& packing) {
  const auto percent = 100 * packing.common_tokens / std::max<int64_t>(1, packing.real_tokens);
  if (!packing.packed || percent < 5) return;
  if (packing.shares_prefixes) {
    log_info("%d%% of the tokens are common beginnings of rows, and computed once", percent);
  } else {
    log_info(
        "%d%% of the tokens are common beginnings of rows, but computed for each: lora.dropout "
        "draws for every row (0 would spare them)",
        percent);
  }
}

// Rank 0 leaves for people, before the task begins, what was read and how it was split.
void write_preparation(const OutputFolder& out, const JobPlan& plan, const Prepared& prepared) {
  write_job_yaml(out, plan, prepared.hashes);
  std::optional<DataReport> train;
  if (prepared.train) {
    train = prepared.train->report;
    train->packing = packing_or_throw(prepared.train->rows, plan);
    tell_of_sharing(*train->packing);
  }
  if (train || prepared.eval) {
    output_or_throw(write_data_report(out.data_report(), train ? &*train : nullptr,
                                      prepared.eval ? &prepared.eval->report : nullptr));
  }
  write_partitions(prepared.emoe, out.partition());
}

Preparation preparation_of(const Prepared& prepared) {
  Preparation preparation;
  for (const ContentField& content : kContentFields) {
    if (content.rank_word == nullptr) continue;
    preparation.emplace_back(content.rank_word, prepared.hashes.*content.hash);
  }
  preparation.emplace_back("partition or job", prepared.fingerprint);
  if (prepared.tokenizer != nullptr) {
    preparation.emplace_back("settings of the tokenizer",
                             sha256_hex(prepared.tokenizer->rules().to_text()));
  }
  return preparation;
}

// Only a training run has settings of its own, which its adapter may not fit.
void load_adapter(const PeftAdapter& adapter, Model& model) {
  const Status loaded = load_peft_adapter(adapter, model);
  if (loaded.ok()) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat("lora.init_adapter: ", std::string(loaded.message())));
}

std::string end_text(ExitCode code, const JobPlan& plan) {
  if (code == ExitCode::done) return "";
  if (!plan.has_inputs()) return "stopped as asked";
  if (code == ExitCode::peer_lost) return "its coordinator is gone or refuses it";
  return plan.train() != nullptr
             ? "stopped as asked; started again it goes on from its newest checkpoint"
             : "stopped as asked; nothing is kept: started again it begins anew";
}

// What the coordinator has said of the job it gave us. Its file is resolved: what was left to a
// default cannot be seen in it any more.
Warnings told_by_coordinator(const std::filesystem::path& job_file) {
  const Result<std::string> text = read_file(job_file.parent_path() / kWarningsFile);
  if (!text.ok()) return {};  // an older coordinator's
  return nlohmann::json::parse(*text).get<Warnings>();
}

Task task_of(const TrainPlan& /*plan*/) {
  return train_task;
}
Task task_of(const EvaluatePlan& /*plan*/) {
  return evaluate_task;
}
Task task_of(const AdapterMergePlan& /*plan*/) {
  return merge_task;
}
Task task_of(const ConvertPlan& /*plan*/) {
  return convert_task;
}
Task task_of(const PreflightPlan& /*plan*/) {
  return preflight_task;
}

}  // namespace

RankSession::RankSession(const RunRequest& request, const RankEnvironment& environment)
    : environment_(environment),
      out_{request.out},
      plan_(plan_job(request.job_file, request.overrides)),
      cache_dir_(environment.cache_dir.empty() ? out_.cache() : environment.cache_dir) {
  check_world_size(plan_, environment_);
  plan_.ranks = environment_.world_size;
  device_ = device_of(plan_, environment_);
  if (!environment.coordinator) return;
  for (const Warning& told : told_by_coordinator(request.job_file)) {
    merge_warning(plan_.warnings, told);
  }
}

ExitCode RankSession::run(const Task& task) {
  reporting_.emplace(plan_, environment_, out_, shown_device(), *counters_);
  ExitCode code = ExitCode::done;
  try {
    code = run_in_session(task);
  } catch (const std::exception& error) {
    reporting_->finish(exit_code_of(error), error.what());
    throw;
  }
  const std::string end = end_text(code, plan_);
  if (is_first() && !end.empty()) log_info("%s", end);
  reporting_->finish(code, end);
  // Together: mpirun ends the others as soon as one rank exits with a code that is not 0.
  groups_->all().barrier();
  return code;
}

DeviceShown RankSession::shown_device() {
  if (!device_.is_cuda()) return {};
  return {.name = "cuda", .gpu = cuda::device_name(device_.index()), .memory = [this] {
            return device_begun_ ? device_memory(device_) : std::nullopt;
          }};
}

ExitCode RankSession::run_in_session(const Task& task) {
  if (device_.is_cuda()) {
    at::globalContext().lazyInitDevice(device_.type());
    device_begun_ = true;
  }
  progress().on(Phase::prepare);
  hasher_.emplace(cache_dir_, [this] { progress().on_work_done(); });
  claim();
  if (plan_.has_inputs()) prepare_inputs();
  join_ranks();
  if (plan_.preflight) run_preflight(*this);
  const TaskResult result = run_task(task);
  groups_->all().barrier();
  // A run that is done stays done: its reports are stored, or left for the coordinator to find.
  if (result.finished) return ExitCode::done;
  // One rank gives its coordinator up a moment before the others, and stops them: all say so.
  // A run that stopped without a checkpoint was cancelled by its coordinator, or is not the
  // coordinator's any more; the coordinator knows, whatever the code.
  const bool leaving = groups_->all().any(reporting_->must_leave());
  return leaving ? ExitCode::peer_lost : ExitCode::preempted;
}

// A base that has a NaN shows it in the first loss: only then its weights are looked through.
TaskResult RankSession::run_task(const Task& task) {
  try {
    return task(*this);
  } catch (const NonFiniteError&) {
    input_or_throw(prepared_->base.check_finite([this] { progress().on_work_done(); }));
    throw;
  }
}

// Before anything is written.
void RankSession::claim() {
  constexpr std::chrono::seconds kPatience{10};
  if (is_first()) {
    lock_ = claim_output_folder(out_, plan_, *hasher_, kPatience);
  } else {
    check_output_folder(out_, plan_, *hasher_);
  }
}

void RankSession::prepare_inputs() {
  threads_ = set_threads(plan_, environment_);
  prepared_.emplace(prepare(
      plan_, cache_dir_, threads_, *hasher_, [this] { progress().on_work_done(); },
      [this] { return stop().poll() != StopRequest::none; }));
  if (device_.is_cuda()) {
    choose_micro_batch(plan_, prepared_->base, cuda::total_memory(device_.index()));
  }
  if (is_first()) write_preparation(out_, plan_, *prepared_);
  const Status allowed = warn(prepared_->warnings);
  if (!allowed.ok()) throw JobError(ExitCode::data, allowed);
}

Status RankSession::warn(const Warnings& warnings) {
  progress().on(warnings);
  if (!plan_.strict) return ok_status();
  Diagnostics problems;
  for (const Warning& warning : warnings) problems.warn(warning);
  problems.forbid_warnings();
  return problems.to_status(StatusCode::kAborted);
}

// Not earlier: nobody waits in a collective for somebody else's tokeniser.
void RankSession::join_ranks() {
  const int replicas = plan_.ranks / plan_.tensor;
  const ParallelPlan ranks =
      ParallelPlan::make(plan_.ranks, plan_.tensor, plan_.shard_base ? replicas : 1).value();
  groups_.emplace(ranks, environment_, device_, counters_);
  if (!prepared_) return;
  if (device_.is_cuda()) agree_on_micro_batch(plan_, groups_->all());
  check_same_preparation(preparation_of(*prepared_), host_name(), groups_->all());
}

std::unique_ptr<Model> RankSession::make_model() {
  const BaseWeights& base = prepared_->base;
  ModelOptions options;
  options.config = base.config();
  options.dtype = plan_.model.bfloat16 ? at::kBFloat16 : at::kFloat;
  options.device = device_;
  options.emoe = prepared_->emoe;
  std::optional<PeftAdapter> adapter;
  if (!plan_.adapter.empty()) {
    adapter = input_or_throw(read_peft_adapter(plan_.adapter, base.config()));
  }
  if (const TrainPlan* train = plan_.train()) {
    options.lora = train->lora;
    options.full = train->full;
    options.recompute = train->recompute;
    if (adapter) options.lora.modules = adapter->lora.modules;
  } else if (adapter) {
    options.lora = adapter->lora;  // its own rank and targets
  }
  auto model =
      worker::make_model(options,
                         [&](const std::string& name, const std::vector<int64_t>& shape) {
                           progress().on_work_done();
                           return base.tensor(name, shape);
                         },
                         {.shard = groups_->shard_device(), .tensor = groups_->tensor_device()});
  base.release();  // the model has copies
  if (adapter) load_adapter(*adapter, *model);
  choose_ffn(*model, out_, groups_->all(), environment_.ffn);
  return model;
}

std::optional<SuiteEvaluation> RankSession::make_suite_evaluation() {
  if (!prepared_->suite) return std::nullopt;
  // There is room for more tokens than in a step (kSuitePass); and the fewer passes a subject takes, the
  // less often its shots are computed again. Of MMLU's test split with 5 shots (Llama 2's tokenizer) that
  // is 43 % of the tokens with 4,096 in a pass, 6 % with four times as many.
  std::optional<SuiteEvaluation> evaluation(
      std::in_place, *prepared_->suite, *prepared_->tokenizer, groups_->data_host(),
      SuiteEvaluation::Options{.max_tokens = kSuitePass * plan_.suite->max_tokens,
                               .whole_rows = !device_.is_cpu(),
                               .threads = at::get_num_threads(),
                               .on_work_done = [this] { progress().on_work_done(); }});
  if (evaluation->scores_nothing()) {
    throw JobError(ExitCode::data,
                   absl::StrCat("evaluate.max_length: no question of ", prepared_->suite->name,
                                " fits into ", prepared_->suite->max_length, " tokens"));
  }
  return evaluation;
}

namespace {

// Beside what the attempt itself has, a rank reads only what the job's project may: a link that was changed
// since the job was submitted leads nowhere.
void restrict_reads_of(const RunRequest& request, const RankEnvironment& environment) {
  if (environment.allowed_roots.empty()) return;
  std::vector<std::filesystem::path> roots = environment.allowed_roots;
  roots.push_back(absolute_path(request.out));
  roots.push_back(absolute_path(request.job_file).parent_path());
  if (!request.checkpoint.empty()) roots.push_back(absolute_path(request.checkpoint));
  if (!environment.cache_dir.empty()) roots.push_back(environment.cache_dir);
  restrict_reads(roots);
}

}  // namespace

int run_job(const RunRequest& request, const RankEnvironment& environment) {
  // As the coordinator's own, which other machines' ranks do not inherit.
  if (environment.coordinator) ::umask(::umask(0027) | 0027);
  restrict_reads_of(request, environment);
  RankSession session(request, environment);
  Task task = std::visit([](const auto& plan) { return task_of(plan); }, session.plan().task);
  if (!request.checkpoint.empty()) {
    if (session.plan().train() == nullptr) {
      throw JobError(ExitCode::configuration, "--export-checkpoint is of a training: task: train");
    }
    task = [&](RankSession& of) { return checkpoint_export_task(of, request.checkpoint); };
  }
  return static_cast<int>(session.run(task));
}

}  // namespace emoe::worker
