// A job from its spec to its published export; docs/TOUR.md walks through it.
#include <algorithm>
#include <chrono>
#include <thread>

#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "worker/comm/loopback/loopback_communicator.h"
#include "worker/comm/mpi/mpi_communicator.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/comm/nccl/nccl_communicator.h"
#include "worker/device/device.h"
#include "worker/model/llama.h"
#include "worker/run/commands.h"
#include "worker/run/exit_code.h"
#include "worker/run/experts.h"
#include "worker/run/job_plan.h"
#include "worker/run/output_folder.h"
#include "worker/run/prepare.h"
#include "worker/run/rank_agreement.h"
#include "worker/run/reporting.h"
#include "worker/train/packing_report.h"
#include "worker/train/trainer.h"
#include "worker/weights/export.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

void check_world_size(const JobPlan& plan, const RankEnvironment& environment) {
  if (plan.ranks == environment.world_size) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat("parallel.ranks is ", plan.ranks, ", but ", environment.world_size,
                              " rank(s) were started; start them with mpirun -n ", plan.ranks,
                              ", or set parallel.ranks=", environment.world_size));
}

// Cores are shared by the ranks on a host: ranks × threads must not exceed them.
int set_threads(const JobPlan& plan, const RankEnvironment& environment) {
  int threads = plan.threads_per_rank;
  if (threads == 0) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    threads = std::max(1, cores / std::max(1, environment.world_size));
  }
  at::set_num_threads(threads);
  keep_freed_memory();
  return threads;
}

std::unique_ptr<Communicator> make_communicator(const RankEnvironment& environment,
                                                const MpiSession* mpi) {
  if (mpi == nullptr) return make_loopback();
  if (mpi->world_size() != environment.world_size) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat("the launcher started ", environment.world_size,
                                " ranks, but MPI sees ", mpi->world_size(),
                                ": launcher and MPI library do not speak the same PMI "
                                "(under Slurm use srun --mpi=pmix)"));
  }
  return make_mpi_communicator();
}

at::Device device_of(const JobPlan& plan, const RankEnvironment& environment) {
  try {
    return find_device(plan.device, environment.local_rank);
  } catch (const std::invalid_argument& error) {
    throw JobError(ExitCode::configuration, absl::StrCat("resources.device: ", error.what()));
  }
}

// The gradients' way between the ranks: null where `host` can carry them (host memory, or one
// rank), NCCL between GPUs. Collective.
std::unique_ptr<Communicator> make_gradient_communicator(Communicator& host, at::Device device) {
  if (host.world_size() == 1) return nullptr;
  const auto mine = static_cast<std::byte>(device.is_cuda());
  std::vector<std::byte> all(static_cast<size_t>(host.world_size()));
  host.all_gather(std::span(&mine, 1), all);
  const auto other = std::find_if(all.begin(), all.end(), [&](std::byte b) { return b != mine; });
  if (other != all.end()) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat("resources.device: rank ", host.rank(), " computes on the ",
                                device.is_cuda() ? "GPU" : "CPU", ", rank ", other - all.begin(),
                                " does not; say cpu or cuda instead of auto"));
  }
  if (!device.is_cuda()) return nullptr;
  return make_nccl_communicator(host, {.device = device.index()});
}

Llama make_model(const JobPlan& plan, const Prepared& prepared, at::Device device,
                 ProgressSink& progress) {
  Llama::Options options;
  options.config = prepared.base.config();
  options.dtype = plan.model.bfloat16 ? at::kBFloat16 : at::kFloat;
  options.device = device;
  options.lora = plan.tuning.lora;
  options.full = plan.tuning.full;
  options.emoe = prepared.emoe;
  const auto source = [&](const std::string& name, const std::vector<int64_t>& shape) {
    progress.on_work_done();
    return prepared.base.tensor(name, shape);
  };
  Llama model(options, source);
  if (!plan.tuning.init_adapter.empty()) {
    const PeftAdapter adapter = input_or_throw(read_peft_adapter(plan.tuning.init_adapter));
    const Status loaded = load_peft_adapter(adapter, model);
    if (!loaded.ok())
      throw JobError(ExitCode::configuration,
                     absl::StrCat("lora.init_adapter: ", std::string(loaded.message())));
  }
  return model;
}

// What rank 0 leaves for people before training: what was read and how it was split.
void write_preparation(const OutputFolder& out, const JobPlan& plan, const Prepared& prepared) {
  write_job_yaml(out, plan, prepared.hashes);
  DataReport train = prepared.train.report;
  auto packing = packing_of(prepared.train.rows, plan.train, plan.ranks);
  if (!packing.ok())
    throw JobError(ExitCode::configuration, std::string(packing.status().message()));
  train.packing = *packing;
  output_or_throw(write_data_report(out.data_report(), train,
                                    prepared.eval ? &prepared.eval->report : nullptr,
                                    prepared.warnings));
  for (const std::string& warning : prepared.warnings) log_warning("%s", warning);
  write_partitions(prepared.emoe, out.partition());
}

// Token ids whose logits the export's check compares: real text, at most 64 tokens.
std::vector<int64_t> probe_of(const Prepared& prepared) {
  constexpr size_t kProbeTokens = 64;
  const std::vector<int32_t>& ids = prepared.train.rows.front().ids;
  return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(std::min(ids.size(), kProbeTokens))};
}

MergeRecord export_result(Llama& model, const JobPlan& plan, const Prepared& prepared,
                          const OutputFolder& out, const ContentHasher& hasher,
                          ProgressSink& progress) {
  ExportOptions options;
  options.out = out.export_dir();
  options.dtype = plan.export_model.bfloat16 ? "bfloat16" : "float32";
  options.merged = plan.export_model.merged;
  options.adapter = plan.export_model.adapter;
  options.verify = plan.export_model.verify;
  options.base_name = plan.model.path.string();
  if (plan.model.path.empty()) options.tokenizer = prepared.tokenizer.file();
  options.probe = probe_of(prepared);
  options.on_work_done = [&progress] { progress.on_work_done(); };
  options.before_publish = [&hasher] { return hasher.check_model_unchanged(); };
  auto report = export_model(model, prepared.base, options);
  if (!report.ok()) {
    throw JobError(export_error_code(report.status()), std::string(report.status().message()));
  }
  return {.verified = report->verified,
          .tensors_changed = report->tensors_changed(),
          .tensors_unchanged = report->tensors_unchanged(),
          .max_abs_logit_difference = report->max_abs_logit_difference,
          .model_dir = options.merged ? (options.out / "model").string() : "",
          .adapter_dir = options.adapter ? (options.out / "adapter").string() : ""};
}

Preparation preparation_of(const Prepared& prepared) {
  const ContentHashes& hashes = prepared.hashes;
  return {{"base model", hashes.model}, {"tokenizer", hashes.tokenizer},
          {"data.train", hashes.train}, {"data.eval", hashes.eval},
          {"adapter", hashes.adapter},  {"partition or job", prepared.fingerprint}};
}

// One rank of one job; members in the order they come to be.
class JobRun {
 public:
  JobRun(const RunRequest& request, const RankEnvironment& environment)
      : environment_(environment),
        out_{request.out},
        plan_(plan_job(request.job_file, request.overrides)),
        cache_dir_(environment.cache_dir.empty() ? out_.cache() : environment.cache_dir) {}

  ExitCode run() {
    check_world_size(plan_, environment_);
    device_ = device_of(plan_, environment_);
    Reporting reporting(plan_, environment_, out_, device_.is_cuda() ? "cuda" : "cpu");
    ExitCode code = ExitCode::done;
    try {
      code = train_and_export(reporting);
    } catch (const std::exception& error) {
      reporting.finish(exit_code_of(error), error.what(), steps_done_);
      throw;
    }
    reporting.finish(code, code == ExitCode::done ? "" : "stopped at a step edge", steps_done_);
    // Together: mpirun ends the others as soon as one rank exits with a code that is not 0.
    comm_->barrier();
    return code;
  }

 private:
  [[nodiscard]] bool is_first() const { return environment_.rank == 0; }

  ExitCode train_and_export(Reporting& reporting) {
    const int threads = set_threads(plan_, environment_);
    ProgressSink& progress = reporting.sink();
    progress.on_phase(Phase::prepare);
    const auto on_work_done = [&progress] { progress.on_work_done(); };
    ContentHasher hasher(cache_dir_, on_work_done);
    claim(hasher);
    const Prepared prepared = prepare(plan_, cache_dir_, threads, hasher, on_work_done);
    if (is_first()) write_preparation(out_, plan_, prepared);

    if (environment_.launched) mpi_.emplace();
    comm_ = make_communicator(environment_, mpi_ ? &*mpi_ : nullptr);
    reporting.watch(comm_->counters());
    check_same_preparation(preparation_of(prepared), host_name(), *comm_);
    gradient_comm_ = make_gradient_communicator(*comm_, device_);

    Llama model = make_model(plan_, prepared, device_, progress);
    const TrainEnd end = train(model, prepared, reporting);
    if (end == TrainEnd::finished && is_first()) publish(model, prepared, hasher, progress);
    comm_->barrier();
    // A run that is done stays done: its reports are stored, or left for the coordinator to find.
    if (end == TrainEnd::finished) return ExitCode::done;
    // One rank gives its coordinator up a moment before the others, and stops them: all say so.
    // Without a checkpoint (TrainEnd::stopped) only a coordinator stops a run, one that is cancelled
    // or that is not this rank's any more; it knows, whatever the code.
    const bool leaving = on_any_rank(reporting.must_leave(), *comm_);
    return leaving ? ExitCode::peer_lost : ExitCode::preempted;
  }

  // Before anything is written. The lock is kept until this process ends.
  void claim(ContentHasher& hasher) {
    constexpr std::chrono::seconds kPatience{10};
    if (is_first()) {
      lock_ = claim_output_folder(out_, plan_, hasher, kPatience);
    } else {
      check_output_folder(out_, plan_, hasher);
    }
  }

  TrainEnd train(Llama& model, const Prepared& prepared, Reporting& reporting) {
    TrainOptions options = plan_.train;
    options.checkpoint.folder = out_.checkpoints();
    options.checkpoint.fingerprint = prepared.fingerprint;
    const std::vector<Row> no_rows;
    const SystemClock clock;
    Trainer trainer(options, {.model = model,
                              .comm = *comm_,
                              .progress = reporting.sink(),
                              .stop = reporting.stop(),
                              .clock = clock,
                              .train_rows = prepared.train.rows,
                              .eval_rows = prepared.eval ? prepared.eval->rows : no_rows,
                              .gradient_comm = gradient_comm_.get()});
    const TrainResult result = trainer.run();
    steps_done_ = result.steps_done;
    if (result.end != TrainEnd::finished || prepared.emoe.partitions.empty()) return result.end;
    const ExpertCounts counts = trainer.expert_counts();
    if (is_first()) output_or_throw(write_file_atomically(out_.expert_stats(), counts.to_json()));
    return result.end;
  }

  void publish(Llama& model, const Prepared& prepared, const ContentHasher& hasher,
               ProgressSink& progress) {
    if (!plan_.export_model.merged && !plan_.export_model.adapter) return;
    progress.on_phase(Phase::export_model);
    progress.on_merge(export_result(model, plan_, prepared, out_, hasher, progress));
    log_info("export: %s", out_.export_dir().string());
  }

  RankEnvironment environment_;
  OutputFolder out_;
  JobPlan plan_;
  std::filesystem::path cache_dir_;
  std::optional<FileLock> lock_;
  at::Device device_ = at::kCPU;
  std::optional<MpiSession> mpi_;
  std::unique_ptr<Communicator> comm_;           // gone before mpi_
  std::unique_ptr<Communicator> gradient_comm_;  // null: comm_
  int64_t steps_done_ = 0;
};

}  // namespace

int run_job(const RunRequest& request, const RankEnvironment& environment) {
  return static_cast<int>(JobRun(request, environment).run());
}

}  // namespace emoe::worker
