#include "launcher/slurm/batch_script.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_replace.h>

#include "launcher/local/attempt_files.h"

namespace emoe::launcher {
namespace {

// "1-02:03:04": days, hours, minutes, seconds.
std::string slurm_time(std::chrono::seconds time) {
  const auto s = time.count();
  return absl::StrFormat("%d-%02d:%02d:%02d", s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
}

void add_placement(const LaunchRequest& request, const QueueOptions& options,
                   std::vector<std::string>& argv) {
  argv.push_back(absl::StrCat("--ntasks=", request.ranks));
  if (options.ranks_per_node > 0) {
    const int per_node = std::min(options.ranks_per_node, request.ranks);
    argv.push_back(absl::StrCat("--ntasks-per-node=", per_node));
    argv.push_back(absl::StrCat("--nodes=", (request.ranks + per_node - 1) / per_node));
  }
  argv.push_back(absl::StrCat("--cpus-per-task=", request.threads_per_rank));
  if (options.gpus_per_rank > 0) {
    argv.push_back(absl::StrCat("--gpus-per-task=", options.gpus_per_rank));
  }
}

}  // namespace

const char* batch_script() {
  return R"script(#!/bin/bash
# One attempt of an emoe job: "$@" is what every rank runs. Written by emoe-coordinator, the same for
# all jobs.
set -u
cd "$EMOE_ATTEMPT_DIR" || exit 74
ours=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
# To make a link is to take the attempt: it can be done once, on network file systems too.
if ! ln -s "$ours" slurm_run && [ "$(readlink slurm_run)" != "$ours" ]; then
  echo "the attempt belongs to $(readlink slurm_run), not to $ours: ending at once"
  exit 73
fi
# The ranks get these signals as well, checkpoint and end; srun is waited for meanwhile.
trap : TERM USR1
srun --mpi=pmix --kill-on-bad-exit=1 --wait=60 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$@" &
step=$!
wait "$step"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do
  wait "$step"
  code=$?
done
echo "$code" >slurm_exit
exit "$code"
)script";
}

QueueOptions combined(const QueueOptions& job, const QueueOptions& service) {
  QueueOptions result = job;
  for (const auto member : {&QueueOptions::partition, &QueueOptions::account, &QueueOptions::qos,
                            &QueueOptions::constraint}) {
    if ((result.*member).empty()) result.*member = service.*member;
  }
  for (const auto member : {&QueueOptions::ranks_per_node, &QueueOptions::gpus_per_rank}) {
    if (result.*member == 0) result.*member = service.*member;
  }
  if (result.time_limit.count() == 0) result.time_limit = service.time_limit;
  // Of an option that is given twice sbatch takes the last: the job's.
  result.extra_args = service.extra_args;
  result.extra_args.insert(result.extra_args.end(), job.extra_args.begin(), job.extra_args.end());
  return result;
}

std::vector<std::string> sbatch_argv(const Submission& submission, const LaunchRequest& request) {
  const QueueOptions options = combined(request.queue, submission.defaults);
  const std::string dir = request.attempt_dir.string();
  // In the name of an output file a percent sign begins a pattern.
  const std::string output =
      absl::StrReplaceAll(AttemptFiles(request.attempt_dir).output().string(), {{"%", "%%"}});
  std::vector<std::string> argv{submission.sbatch,
                                "--parsable",
                                absl::StrCat("--job-name=", submission.name),
                                absl::StrCat("--comment=", submission.name),
                                absl::StrCat("--chdir=", dir),
                                absl::StrCat("--output=", output),
                                "--open-mode=append",
                                "--export=ALL",
                                "--requeue",
                                absl::StrCat("--signal=USR1@", submission.warning_time.count())};
  add_placement(request, options, argv);
  const std::pair<const char*, const std::string&> words[] = {
      {"--partition=", options.partition},
      {"--account=", options.account},
      {"--qos=", options.qos},
      {"--constraint=", options.constraint}};
  for (const auto& [option, value] : words) {
    if (!value.empty()) argv.push_back(absl::StrCat(option, value));
  }
  if (options.time_limit.count() > 0) {
    argv.push_back(absl::StrCat("--time=", slurm_time(options.time_limit)));
  }
  argv.insert(argv.end(), options.extra_args.begin(), options.extra_args.end());
  argv.push_back(submission.script.string());
  for (const std::string& word : {submission.rank_guard, std::string("rank"),
                                  absl::StrCat(submission.log_limit_bytes), std::string("--")}) {
    argv.push_back(word);
  }
  argv.insert(argv.end(), request.worker_argv.begin(), request.worker_argv.end());
  return argv;
}

}  // namespace emoe::launcher
