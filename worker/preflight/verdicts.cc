#include "worker/preflight/verdicts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/check.h"

namespace emoe::worker {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kNever = std::numeric_limits<double>::infinity();

// clang-format off
constexpr Expectation kExpectations[] = {
    // A rank keeps its weights, gradients and the libraries (some 300 MiB) in it; below that nothing starts.
    {"memory free", "bytes", true, 1024 * kMiB, 256 * kMiB, "end other programs on the host, or give the job fewer ranks there"},
    {"GPU memory free", "bytes", true, 4096 * kMiB, 512 * kMiB, "another process uses the GPU: nvidia-smi shows which"},
    // Open MPI puts some 4 MiB for each rank of the host there; containers give 64 MiB by default. A full one ends ranks by SIGBUS.
    {"/dev/shm free", "bytes", true, 256 * kMiB, 16 * kMiB, "make /dev/shm larger (Docker: --shm-size, Kubernetes: an emptyDir in memory)"},
    // InfiniBand registers memory: with less MPI falls back to TCP or fails. Elsewhere it is of no account.
    {"memlock limit", "bytes", true, 64 * kMiB, -1, "raise the limit: ulimit -l unlimited, LimitMEMLOCK=infinity in the unit of sshd or slurmd"},
    // A connection to every other rank, data files, shards, the session. The usual limit is 1024.
    {"open files limit", "", true, 1024, 256, "raise the limit: ulimit -n 65536, LimitNOFILE in the unit of the service"},
    // Tokens have no times, but logs, checkpoints' times and Prometheus do.
    {"clock difference", "s", false, 1, 300, "start a time service (chrony, systemd-timesyncd) on the host"},
    // A checkpoint of a 7B model in full is 80 GB: 27 minutes at 50 MB/s.
    {"output: write", "bytes/s", true, 50e6, 1e6, "the output folder's disk or network file system is slow: another output_root"},
    // Lines of metrics and every checkpoint are synced.
    {"output: fsync", "s", false, 0.1, 5, "the output folder's file system syncs slowly: another output_root"},
    // Errors that memory could not correct: results are wrong, or will be.
    {"GPU ECC errors", "", false, 0.5, 0.5, "uncorrected errors: drain the GPU and reset or replace it"},
    // A card that is kept from its clock by heat or power makes all ranks wait for it.
    {"GPU clock", "", true, 0.6, -1, "the GPU runs below its clock: look at heat, power and nvidia-smi -q -d PERFORMANCE"},
    // One step's all-reduce of LoRA gradients of a 7B model is some 16 MB: 0.2 s at 100 MB/s (gigabit Ethernet).
    {"all-reduce 16 MiB", "bytes/s", true, 100e6, 5e6, "the ranks' network is slow: name the right one (btl_tcp_if_include, NCCL_SOCKET_IFNAME)"},
    {"all-gather 16 MiB", "bytes/s", true, 100e6, 5e6, "the ranks' network is slow: name the right one (btl_tcp_if_include, NCCL_SOCKET_IFNAME)"},
    {"all-reduce 1 MiB", "bytes/s", true, -1, -1, ""},
    {"all-gather 1 MiB", "bytes/s", true, -1, -1, ""},
    {"all-reduce 64 KiB", "bytes/s", true, -1, -1, ""},
    {"all-gather 64 KiB", "bytes/s", true, -1, -1, ""},
    // The time of a message: above that the ranks share cores, or the network is not what it should be.
    {"all-reduce 8 B", "s", false, 0.002, 0.5, "messages take long: too many ranks or threads on the host's cores, or a far network"},
    {"all-gather 8 B", "s", false, 0.002, 0.5, "messages take long: too many ranks or threads on the host's cores, or a far network"},
};
// clang-format on

const Expectation& expectation_of(const std::string& check) {
  const auto found = std::ranges::find(kExpectations, check, &Expectation::check);
  EMOE_CHECK(found != std::end(kExpectations), check);
  return *found;
}

std::string with_prefix(double value, const char* unit) {
  static constexpr std::array kPrefixes{"", "k", "M", "G", "T", "P"};
  size_t i = 0;
  for (; value >= 1000 && i + 1 < kPrefixes.size(); ++i) value /= 1000;
  return absl::StrFormat("%.3g %s%s", value, kPrefixes.at(i), unit);
}

std::string shown(double value, const std::string& unit) {
  if (value == kNever) return "unlimited";
  if (unit == "bytes") return with_prefix(value, "B");
  if (unit == "bytes/s") return with_prefix(value, "B/s");
  if (unit == "s") return absl::StrFormat("%.3g ms", value * 1000);
  return absl::StrFormat("%.6g", value);
}

std::string who(const PreflightRow& row) {
  return row.rank < 0 ? "all ranks" : absl::StrCat("rank ", row.rank, " on host ", row.host);
}

}  // namespace

PreflightRow judged(const std::string& check, double value) {
  return judged(check, value, "");
}

PreflightRow judged(const std::string& check, double value, const std::string& more) {
  const Expectation& wanted = expectation_of(check);
  const auto beyond = [&](double limit) {
    return wanted.more_is_better ? value < limit : value > limit;
  };
  PreflightRow row = noted(check, shown(value, wanted.unit) + more);
  row.verdict = beyond(wanted.bad) ? "bad" : beyond(wanted.warn) ? "warn" : "ok";
  if (row.verdict != "ok") row.advice = wanted.advice;
  return row;
}

PreflightRow noted(const std::string& check, const std::string& value) {
  PreflightRow row;
  row.check = check;
  row.value = value;
  row.verdict = "ok";
  return row;
}

PreflightRow failed(const std::string& check, const std::string& value, const std::string& advice) {
  PreflightRow row = noted(check, value);
  row.verdict = "bad";
  row.advice = advice;
  return row;
}

void compare_versions(std::vector<PreflightRow>& rows) {
  for (PreflightRow& row : rows) {
    if (!row.check.starts_with("version of ")) continue;
    const auto first = std::ranges::find(rows, row.check, &PreflightRow::check);
    if (first->value == row.value) continue;
    // Another program computes in another way; a driver or NCCL often gets along with its neighbours.
    row.verdict = row.check == "version of emoe" || row.check == "version of MPI" ? "bad" : "warn";
    row.advice = absl::StrCat("rank ", first->rank, " on host ", first->host, " has ", first->value,
                              ": install the same on all hosts");
  }
}

std::string bad_rows_text(const std::vector<PreflightRow>& rows) {
  const auto bad = std::ranges::count(rows, "bad", &PreflightRow::verdict);
  if (bad == 0) return "";
  std::string text = absl::StrCat(bad, bad == 1 ? " check is bad" : " checks are bad");
  for (const PreflightRow& row : rows) {
    if (row.verdict != "bad") continue;
    absl::StrAppend(&text, text.find(": ") == std::string::npos ? ": " : "; ", row.check, " of ",
                    who(row), " is ", row.value, " (", row.advice, ")");
  }
  return text;
}

}  // namespace emoe::worker
