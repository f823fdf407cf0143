#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/preflight/host_facts.h"
#include "worker/preflight/verdicts.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"

namespace emoe::worker {
namespace {

using Rows = std::vector<PreflightRow>;
using SteadyClock = std::chrono::steady_clock;

struct Size {
  const char* name;
  int64_t bytes;
  int rounds;
};
constexpr Size kSizes[] = {
    {"8 B", 8, 50}, {"64 KiB", 64 << 10, 20}, {"1 MiB", 1 << 20, 10}, {"16 MiB", 16 << 20, 4}};

// Mean seconds of `round`, which the ranks begin together; the slowest rank's. The tensor's last element is
// read at the end: a GPU has done its work then.
double seconds_of(HostGroup& all, int rounds, const at::Tensor& result,
                  const std::function<void()>& round) {
  round();
  all.barrier();
  const auto start = SteadyClock::now();
  for (int i = 0; i < rounds; ++i) round();
  (void)result.flatten()[-1].item<float>();
  double seconds = std::chrono::duration<double>(SteadyClock::now() - start).count() / rounds;
  all.max({&seconds, 1});
  return seconds;
}

// Of a small message the time counts, of others the bytes that each rank's link carries in it.
PreflightRow collective_row(const std::string& check, const Size& size, double seconds,
                            double traffic) {
  if (size.bytes == 8) return judged(check, seconds);
  return judged(check, traffic / seconds, absl::StrFormat(" (%.3g ms)", 1000 * seconds));
}

// Collective.
Rows collectives(HostGroup& all, DeviceGroup& group, at::Device device, const std::string& prefix) {
  Rows rows;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const int64_t ranks = group.world_size();
  const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  for (const Size& size : kSizes) {
    const int64_t numbers = size.bytes / 4;
    const at::Tensor sum = at::zeros({numbers}, options);
    const double reduce = seconds_of(all, size.rounds, sum, [&] { group.all_reduce(sum).wait(); });
    const auto bytes = static_cast<double>(size.bytes);
    rows.push_back(
        collective_row(absl::StrCat("all-reduce ", size.name), size, reduce, 2 * share * bytes));
    const int64_t part = std::max<int64_t>(numbers / ranks, 1);
    const at::Tensor mine = at::zeros({part}, options);
    const at::Tensor every = at::zeros({part * ranks}, options);
    const double gather =
        seconds_of(all, size.rounds, every, [&] { group.all_gather(mine, every).wait(); });
    rows.push_back(collective_row(absl::StrCat("all-gather ", size.name), size, gather,
                                  share * static_cast<double>(4 * part * ranks)));
  }
  for (PreflightRow& row : rows) row.check = prefix + row.check;
  return rows;
}

// To the coordinator's clock, or without one to that of rank 0. Collective.
PreflightRow clock_row(RankSession& session) {
  constexpr const char* kCheck = "clock difference";
  HostGroup& all = session.groups().all();
  all.barrier();
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const double first = std::stod(all.all_gather(absl::StrFormat("%.9f", now)).front());
  const auto difference = session.coordinator_clock_difference();
  return difference ? judged(kCheck, std::abs(*difference), " to the coordinator")
                    : judged(kCheck, std::abs(first - now), " to rank 0");
}

// What this rank finds by itself.
Rows own_rows(RankSession& session) {
  const RankEnvironment& environment = session.environment();
  const at::Device device = session.device();
  Rows rows = host_facts(device.is_cuda() ? device.index() : -1);
  if (environment.world_size > 1) rows.push_back(noted("version of MPI", mpi_version()));
  if (environment.local_rank == 0) {  // one rank of each host
    for (PreflightRow& row : disk_facts(session.out().root)) rows.push_back(row);
  }
  rows.push_back(clock_row(session));
  for (PreflightRow& row : rows) {
    row.rank = environment.rank;
    row.host = host_name();
  }
  return rows;
}

std::string to_json(const Rows& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const PreflightRow& row : rows) {
    list.push_back({row.rank, row.host, row.check, row.value, row.verdict, row.advice});
  }
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void add_from_json(const std::string& text, Rows& rows) {
  for (const auto& row : nlohmann::json::parse(text)) {
    PreflightRow& added = rows.emplace_back();
    row.at(0).get_to(added.rank);
    row.at(1).get_to(added.host);
    row.at(2).get_to(added.check);
    row.at(3).get_to(added.value);
    row.at(4).get_to(added.verdict);
    row.at(5).get_to(added.advice);
  }
}

}  // namespace

void run_preflight(RankSession& session) {
  session.progress().on(Phase::prepare);
  HostGroup& all = session.groups().all();
  Rows rows;
  if (all.world_size() > 1) {
    rows = collectives(all, session.groups().data_device(), session.device(), "");
    if (session.device().is_cuda()) {
      const auto host = make_cpu_group(all);
      const Rows more = collectives(all, *host, at::kCPU, "host ");
      rows.insert(rows.end(), more.begin(), more.end());
    }
  }
  // Before the disks are busy with anything of ours the network was measured; now each for itself.
  for (const std::string& text : all.all_gather(to_json(own_rows(session)))) {
    add_from_json(text, rows);
  }
  compare_versions(rows);
  if (session.is_first()) session.progress().on(PreflightRecord{rows});
  const std::string bad = bad_rows_text(rows);
  if (!bad.empty()) throw JobError(ExitCode::configuration, absl::StrCat("preflight: ", bad));
}

TaskResult preflight_task(RankSession& /*session*/) {
  return {.finished = true};
}

}  // namespace emoe::worker
