#include "launcher/slurm/slurm_queue.h"

#include <algorithm>
#include <sstream>

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace emoe::launcher {
namespace {

struct Row {
  const char* word;
  SlurmState state;
};
constexpr SlurmState kPending{SlurmPhase::pending, SlurmEnd::by_itself};
constexpr SlurmState kRunning{SlurmPhase::running, SlurmEnd::by_itself};
constexpr SlurmState ended(SlurmEnd end) {
  return {SlurmPhase::ended, end};
}
// The states of squeue's manual page.
constexpr Row kStates[] = {
    {"PENDING", kPending},
    {"CONFIGURING", kPending},  // its nodes boot
    {"REQUEUED", kPending},
    {"REQUEUE_FED", kPending},
    {"REQUEUE_HOLD", kPending},
    {"RESV_DEL_HOLD", kPending},
    {"SPECIAL_EXIT", kPending},
    {"RUNNING", kRunning},
    {"COMPLETING", kRunning},  // processes may be left
    {"SUSPENDED", kRunning},
    {"STOPPED", kRunning},
    {"COMPLETED", ended(SlurmEnd::by_itself)},
    {"FAILED", ended(SlurmEnd::by_itself)},
    {"CANCELLED", ended(SlurmEnd::cancelled)},
    {"REVOKED", ended(SlurmEnd::cancelled)},
    {"PREEMPTED", ended(SlurmEnd::preempted)},
    {"TIMEOUT", ended(SlurmEnd::time_limit)},
    {"DEADLINE", ended(SlurmEnd::time_limit)},
    {"NODE_FAIL", ended(SlurmEnd::node_lost)},
    {"BOOT_FAIL", ended(SlurmEnd::node_lost)},
    {"OUT_OF_MEMORY", ended(SlurmEnd::out_of_memory)},
};

// squeue pads each column to its width and cuts what is longer; the suffix is ours.
constexpr const char* kColumns =
    "JobID:64|,State:32|,Reason:256|,RestartCnt:16|,exit_code:16|,NodeList:256|,NumNodes:32|,Name:"
    "128|,"
    "Comment:128|";
constexpr size_t kFields = 9;
// "ReqNodeNotAvail,_UnavailableNodes:n2" and "Nodes required for job are DOWN, DRAINED or reserved …" go on.
constexpr std::string_view kNodeReasons[] = {"Resources", "ReqNodeNotAvail", "Nodes required for",
                                             "Nodes_required_for", "PartitionNodeLimit"};

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream text(line);
  for (std::string field; std::getline(text, field, '|');) {
    const size_t begin = field.find_first_not_of(' ');
    const size_t end = field.find_last_not_of(' ');
    fields.push_back(begin == std::string::npos ? "" : field.substr(begin, end - begin + 1));
  }
  return fields;
}

}  // namespace

SlurmState state_of(std::string_view word) {
  for (const Row& row : kStates) {
    if (word == row.word) return row.state;
  }
  return kRunning;
}

bool waits_for_nodes(std::string_view reason) {
  return std::ranges::any_of(kNodeReasons,
                             [&](std::string_view begin) { return reason.starts_with(begin); });
}

std::vector<std::string> squeue_argv(const std::string& squeue) {
  return {squeue, "--me", "--noheader", "--states=all", absl::StrCat("--Format=", kColumns)};
}

Result<std::vector<SlurmJob>> parse_squeue(const std::string& text) {
  std::vector<SlurmJob> jobs;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(' ') == std::string::npos) continue;
    const std::vector<std::string> fields = fields_of(line);
    SlurmJob job;
    int exit = 0;
    // More fields: a name or comment of somebody else's with a bar in it.
    if (fields.size() < kFields || !absl::SimpleAtoi(fields[3], &job.restarts) ||
        !absl::SimpleAtoi(fields[4], &exit)) {
      return absl::DataLossError(absl::StrCat("squeue printed \"", line.substr(0, 200), "\""));
    }
    job.id = fields[0];
    job.state = fields[1];
    job.reason = fields[2];
    job.exit = exit_status_of(exit);
    job.nodes = fields[5];
    if (!absl::SimpleAtoi(fields[6], &job.node_count)) job.node_count = 0;
    job.name = fields[7];
    job.comment = fields[8];
    jobs.push_back(std::move(job));
  }
  return jobs;
}

}  // namespace emoe::launcher
