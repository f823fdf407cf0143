#include "launcher/slurm/slurm_launcher.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"
#include "launcher/slurm/batch_script.h"

namespace emoe::launcher {
namespace {

// "slurm:NAME:FOLDER"
constexpr const char* kHandlePrefix = "slurm:";
// What a coordinator that runs in a Slurm job itself has, and settings of Slurm's commands that our
// options do not name.
const std::vector<std::string> kNotForCommands{"SLURM_", "SBATCH_", "SQUEUE_",   "SCANCEL_",
                                               "PMIX_",  "PMI_",    "OMPI_COMM_"};
constexpr const char* kConfVariable = "SLURM_CONF";  // but this tells which cluster

// sbatch could not tell whether the job is in the queue, or the controller did not listen.
constexpr const char* kSilence[] = {"Unable to contact", "timed out",  "Zero Bytes",
                                    "Connection",        "connection", "temporarily",
                                    "Communication"};
// Limits of the accounting: how many jobs, nodes, … a user may have at once leaves room later; what
// one job may have does not.
constexpr const char* kLimits[] = {"violates accounting/QOS policy"};
constexpr const char* kLimitsOfOneJob[] = {"PerJob"};  // "QOSMaxWallDurationPerJobLimit"

template <size_t n>
bool mentions(const std::string& text, const char* const (&words)[n]) {
  return std::any_of(std::begin(words), std::end(words),
                     [&](const char* word) { return text.find(word) != std::string::npos; });
}

// "sbatch: error: Batch job submission failed: X" on one line, without what is always the same.
std::string words_of(const std::string& text) {
  std::istringstream lines(text);
  std::string words;
  for (std::string line; std::getline(lines, line);) {
    for (const char* prefix : {"sbatch: ", "squeue: ", "scancel: ", "error: "}) {
      if (line.starts_with(prefix)) line.erase(0, std::string(prefix).size());
    }
    if (!line.empty()) absl::StrAppend(&words, words.empty() ? "" : "; ", line);
  }
  return to_valid_utf8(words.substr(0, 500));
}

std::string what_happened(const std::string& program, const CommandResult& result) {
  const std::string words = words_of(result.err);
  if (result.timed_out) {
    return absl::StrCat(program, " did not come to an end and was killed",
                        words.empty() ? "" : ": ", words);
  }
  return absl::StrCat(program, ": ",
                      words.empty() ? absl::StrCat("exit code ", result.exit.code) : words);
}

bool succeeded(const CommandResult& result) {
  return !result.timed_out && result.exit.code == 0 && result.exit.signal == 0;
}

// "17" or "17;cluster"; what a site's plugin prints before it does not count.
std::string job_number_in(const std::string& out) {
  std::istringstream lines(out);
  std::string number;
  for (std::string line; std::getline(lines, line);) {
    const std::string first = line.substr(0, line.find(';'));
    if (!first.empty() && first.find_first_not_of("0123456789") == std::string::npos) {
      number = first;
    }
  }
  return number;
}

}  // namespace

Result<SlurmLauncher::Named> SlurmLauncher::parse(const LaunchHandle& handle) {
  const size_t begin = std::string(kHandlePrefix).size();
  const size_t colon = handle.text.find(':', begin);
  if (!handle.text.starts_with(kHandlePrefix) || colon == std::string::npos) {
    return absl::NotFoundError(absl::StrCat("\"", handle.text, "\" is no attempt under Slurm"));
  }
  return Named{handle.text.substr(begin, colon - begin),
               SlurmAttempt(handle.text.substr(colon + 1))};
}

LaunchHandle SlurmLauncher::handle_of(const std::string& job_id, int attempt,
                                      const std::filesystem::path& attempt_dir) const {
  return {absl::StrCat(kHandlePrefix, job_id, ".", attempt, ":", attempt_dir.string())};
}

std::string SlurmLauncher::program(const char* name) const {
  return config_.bin_dir.empty() ? name : (std::filesystem::path(config_.bin_dir) / name).string();
}

Result<CommandResult> SlurmLauncher::command(std::vector<std::string> argv,
                                             std::map<std::string, std::string> set_env) const {
  const std::string program = argv[0];
  if (const char* conf = std::getenv(kConfVariable)) set_env[kConfVariable] = conf;
  auto result = run_({std::move(argv), std::move(set_env), kNotForCommands, config_.command_limit});
  if (result.status().code() == StatusCode::kNotFound) {
    return absl::FailedPreconditionError(
        absl::StrCat("no program ", program,
                     ": install Slurm's commands (Debian package "
                     "slurm-client), or set launcher.slurm.bin_dir"));
  }
  return result;
}

Result<LaunchHandle> SlurmLauncher::launch(const LaunchRequest& request) {
  EMOE_RETURN_IF_ERROR(check_request(request));
  const LaunchHandle handle = handle_of(request.job_id, request.attempt, request.attempt_dir);
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  if (named.attempt.was_given()) return handle;
  EMOE_RETURN_IF_ERROR(named.attempt.record_launch(request));
  EMOE_RETURN_IF_ERROR(on_machine(write_file_atomically(named.attempt.script(), batch_script())));
  EMOE_RETURN_IF_ERROR(submit(request, named));
  return handle;
}

Status SlurmLauncher::submit(const LaunchRequest& request, const Named& named) {
  const uint64_t of_one_rank = config_.log_limit_bytes / static_cast<uint64_t>(request.ranks);
  const Submission submission{
      program("sbatch"),          named.name,  config_.defaults,      config_.warning_time,
      config_.rank_guard_program, of_one_rank, named.attempt.script()};
  std::map<std::string, std::string> environment = request.environment;
  environment[kJobIdVariable] = request.job_id;
  environment[kAttemptVariable] = absl::StrCat(request.attempt);
  environment[kAttemptDirVariable] = request.attempt_dir.string();
  environment[kThreadsVariable] = absl::StrCat(request.threads_per_rank);
  // On loopback nobody on another node could read them.
  if (std::getenv(kMetricsListenVariable) == nullptr) {
    environment[kMetricsListenVariable] = "0.0.0.0:0";
  }
  EMOE_ASSIGN_OR_RETURN(const CommandResult result,
                        command(sbatch_argv(submission, request), std::move(environment)));
  const std::string number = job_number_in(result.out);
  if (succeeded(result) && !number.empty()) {
    submitted_[named.name] = clock_.steady_now();
    const Status recorded = named.attempt.record_given(number);
    if (!recorded.ok()) log_warning("%s", std::string(recorded.message()));  // its name finds it
    return ok_status();
  }
  const std::string what = what_happened("sbatch", result);
  if (result.timed_out || result.exit.signal != 0 || succeeded(result) ||
      mentions(result.err, kSilence)) {
    return named.attempt.withdraw(what);  // whether or not the controller has it or will get it
  }
  const bool later = mentions(result.err, kLimits) && !mentions(result.err, kLimitsOfOneJob);
  return later ? absl::ResourceExhaustedError(what) : absl::FailedPreconditionError(what);
}

void SlurmLauncher::refresh(SteadyTime now) {
  if (asked_ && now - *asked_ < config_.poll_interval) return;
  asked_ = now;
  const auto result = command(squeue_argv(program("squeue")));
  Status status = result.status();
  if (result.ok() && !succeeded(*result)) {
    status = absl::UnavailableError(what_happened("squeue", *result));
  }
  if (status.ok()) {
    auto jobs = parse_squeue(result->out);
    status = jobs.status();
    if (jobs.ok()) take(*std::move(jobs), now);
  }
  // Said once, not each time.
  if (!status.ok() && (!away_ || !answered_)) log_warning("%s", std::string(status.message()));
  if (status.ok() && away_ && answered_) log_info("squeue answers again");
  away_ = !status.ok();
}

void SlurmLauncher::take(std::vector<SlurmJob> jobs, SteadyTime asked) {
  jobs_ = std::move(jobs);
  answered_ = asked;
  std::erase_if(submitted_, [&](const auto& entry) { return entry.second < asked; });
  std::erase_if(stopped_, [&](const auto& entry) {
    return std::ranges::find(jobs_, entry.first, &SlurmJob::id) == jobs_.end();
  });
}

std::optional<SlurmJob> SlurmLauncher::find(const Named& named) {
  std::optional<SlurmJob> found;
  const std::string taken = named.attempt.taken_by();
  const std::string ours = taken.empty() ? named.attempt.given_as() : taken;
  for (const SlurmJob& job : jobs_) {
    if (job.name != named.name && job.comment != named.name) continue;
    if (!found || job.id == ours) found = job;
  }
  for (const SlurmJob& job : jobs_) {
    const bool same = job.name == named.name || job.comment == named.name;
    const bool surplus = found && same && job.id != found->id;
    if (surplus && state_of(job.state).phase != SlurmPhase::ended) {
      (void)cancel(job.id, StopMode::kill);  // repeated with the next answer
    }
  }
  return found;
}

bool SlurmLauncher::covers(const Named& named) const {
  return answered_ && !submitted_.contains(named.name);
}

AttemptStatus SlurmLauncher::status_of(const Named& named, const SlurmJob& job) {
  const SlurmPhase phase = state_of(job.state).phase;
  if (phase == SlurmPhase::ended) return {AttemptPhase::ended, named.attempt.explain(job), ""};
  if (job.restarts > 0) {
    (void)cancel(job.id, StopMode::kill);
    return {AttemptPhase::running, {}, ""};
  }
  if (phase == SlurmPhase::running) return {AttemptPhase::running, {}, ""};
  const std::string why = job.reason == "None" ? "it was just submitted" : job.reason;
  AttemptStatus status{
      AttemptPhase::queued, {}, absl::StrCat("Slurm job ", job.id, " is pending: ", why)};
  status.no_room = waits_for_nodes(job.reason);
  // Slurm does not say how much room there is: a node less is tried.
  const auto launched = read_launch(named.attempt.files());
  if (status.no_room && launched.ok() && job.node_count > 1) {
    status.room = launched->ranks - (launched->ranks + job.node_count - 1) / job.node_count;
  }
  return status;
}

Result<AttemptStatus> SlurmLauncher::poll(const LaunchHandle& handle) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  refresh(clock_.steady_now());
  const std::optional<SlurmJob> job = find(named);
  if (named.attempt.claim().withdrawn()) {
    if (job && state_of(job->state).phase != SlurmPhase::ended) {
      (void)cancel(job->id, StopMode::kill);
    }
    return absl::NotFoundError("the attempt was withdrawn before Slurm started it");
  }
  const bool given = named.attempt.was_given() || job.has_value();
  // Not even whether it was launched.
  if (away_ && !given) return absl::UnavailableError("squeue does not answer");
  if (away_) return AttemptStatus{AttemptPhase::unknown, {}, ""};
  if (job) return status_of(named, *job);
  if (!covers(named)) {
    return AttemptStatus{AttemptPhase::queued, {}, "Slurm has just been given it"};
  }
  if (!given) return absl::NotFoundError("Slurm knows no job " + named.name);
  return AttemptStatus{AttemptPhase::ended, named.attempt.explain(std::nullopt), ""};
}

Status SlurmLauncher::cancel(const std::string& slurm_job, StopMode mode) {
  const SteadyTime now = clock_.steady_now();
  const auto before = stopped_.find(slurm_job);
  if (before != stopped_.end() && before->second.mode == mode &&
      now - before->second.time < config_.poll_interval) {
    return ok_status();  // it takes its time
  }
  std::vector<std::string> argv{program("scancel")};
  if (mode == StopMode::graceful) argv.emplace_back("--signal=USR1");
  argv.push_back(slurm_job);
  EMOE_ASSIGN_OR_RETURN(const CommandResult result, command(std::move(argv)));
  if (!succeeded(result)) return absl::UnavailableError(what_happened("scancel", result));
  stopped_[slurm_job] = {mode, now};
  return ok_status();
}

Status SlurmLauncher::stop(const LaunchHandle& handle, StopMode mode) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  refresh(clock_.steady_now());
  const auto job = find(named);
  if (!job) {
    const std::string number = named.attempt.given_as();
    if (!away_ && covers(named)) return absl::NotFoundError("Slurm knows no job " + named.name);
    if (number.empty()) return absl::UnavailableError("squeue does not answer");
    return cancel(number, mode);
  }
  const SlurmPhase phase = state_of(job->state).phase;
  if (phase == SlurmPhase::ended && !away_) return ok_status();
  // Nobody is there yet to hear a signal.
  return cancel(job->id, phase == SlurmPhase::pending ? StopMode::kill : mode);
}

Result<LogTail> SlurmLauncher::log(const LaunchHandle& handle, size_t bytes) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  return log_of(named.attempt.files(), bytes);
}

}  // namespace emoe::launcher
