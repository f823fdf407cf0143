#include "server/session/attempt_monitor.h"

#include <algorithm>
#include <tuple>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
namespace emoe::server {
namespace {

int64_t seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration_cast<std::chrono::seconds>(duration).count();
}

}  // namespace

AttemptMonitor::AttemptMonitor(Config config, SteadyTime now, bool adopted)
    : config_(config),
      started_(now),
      adopted_(adopted),
      ranks_(static_cast<size_t>(std::max(config.ranks, 0))) {
  if (config.ranks < 1) {
    mismatch_ = absl::StrCat("the stored job asks for parallel.ranks = ", config.ranks,
                             ": its row in the database is damaged");
  }
  for (Rank& rank : ranks_) rank.last_heard = rank.last_progress = now;
}

Status AttemptMonitor::join(const v1::RankInfo& info, SteadyTime now) {
  if (info.world_size() != config_.ranks || info.rank() < 0 || info.rank() >= config_.ranks) {
    mismatch_ = absl::StrCat("rank ", info.rank(), " of ", info.world_size(), " joined from host ",
                             info.host(), ", the job asks for parallel.ranks = ", config_.ranks,
                             "; MPI started another world (singletons mean that worker and "
                             "launcher use different MPIs)");
    return absl::InvalidArgumentError(mismatch_);
  }
  Rank& rank = ranks_[static_cast<size_t>(info.rank())];
  rank.joined = true;
  rank.info = info;
  rank.last_heard = rank.last_progress = now;
  all_joined_ = std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.joined; });
  return ok_status();
}

void AttemptMonitor::disconnected(int rank, SteadyTime now) {
  ranks_.at(static_cast<size_t>(rank)).last_heard = now;
}

void AttemptMonitor::heartbeat(int index, const v1::RankHeartbeat& heartbeat, SteadyTime now) {
  Rank& rank = ranks_.at(static_cast<size_t>(index));
  rank.last_heard = now;
  const auto place = [](const v1::RankHeartbeat& h) {
    return std::tuple(h.step(), h.phase(), h.comm_sequence(), h.comm_completed(), h.work_done());
  };
  if (place(rank.heartbeat) != place(heartbeat)) rank.last_progress = now;
  rank.heartbeat = heartbeat;
}

void AttemptMonitor::reported(int index, SteadyTime now) {
  Rank& rank = ranks_.at(static_cast<size_t>(index));
  rank.last_heard = rank.last_progress = now;
}

void AttemptMonitor::ended(int rank) {
  ranks_.at(static_cast<size_t>(rank)).ended = true;
}

bool AttemptMonitor::all_ended() const {
  return std::ranges::all_of(ranks_, &Rank::ended);
}

void AttemptMonitor::forgive(SteadyTime::duration gap, SteadyTime now) {
  started_ = std::min(started_ + gap, now);
  for (Rank& rank : ranks_) {
    rank.last_heard = std::min(rank.last_heard + gap, now);
    rank.last_progress = std::min(rank.last_progress + gap, now);
  }
}

std::optional<AttemptMonitor::Alarm> AttemptMonitor::check(SteadyTime now) const {
  if (!mismatch_.empty()) return Alarm{Finding::world_size_mismatch, mismatch_};
  if (auto alarm = missing_ranks(now)) return alarm;
  if (auto alarm = silent_rank(now)) return alarm;
  return standstill(now);
}

std::optional<AttemptMonitor::Alarm> AttemptMonitor::missing_ranks(SteadyTime now) const {
  if (all_joined_ || now - started_ < config_.join_timeout) return std::nullopt;
  std::vector<size_t> missing;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (!ranks_[i].joined && !ranks_[i].ended) missing.push_back(i);
  }
  if (missing.empty()) return std::nullopt;
  const std::string text = absl::StrCat(
      missing.size(), " of ", config_.ranks, " ranks did not ", adopted_ ? "reconnect" : "join",
      " within ", seconds(config_.join_timeout), " s (ranks ", absl::StrJoin(missing, ", "), ")");
  return Alarm{adopted_ ? Finding::session_lost : Finding::join_timeout, text};
}

std::optional<AttemptMonitor::Alarm> AttemptMonitor::silent_rank(SteadyTime now) const {
  const Rank* worst = nullptr;
  for (const Rank& rank : ranks_) {
    if (!rank.joined || rank.ended || now - rank.last_heard < config_.session_timeout) continue;
    if (worst == nullptr || rank.last_heard < worst->last_heard) worst = &rank;
  }
  if (worst == nullptr) return std::nullopt;
  return Alarm{Finding::session_lost, absl::StrCat(describe(worst->info.rank()), ": silent for ",
                                                   seconds(now - worst->last_heard), " s")};
}

std::optional<AttemptMonitor::Alarm> AttemptMonitor::standstill(SteadyTime now) const {
  if (!all_joined_) return std::nullopt;
  SteadyTime last = started_;
  bool anyone = false;
  SteadyTime last_heard = started_;
  for (const Rank& rank : ranks_) {
    last_heard = std::max(last_heard, rank.last_heard);
    if (rank.ended) continue;
    anyone = true;
    last = std::max(last, rank.last_progress);
  }
  if (!anyone && now - last_heard >= config_.progress_timeout) {
    return Alarm{Finding::hang,
                 absl::StrCat("all ranks reported their end ", seconds(now - last_heard),
                              " s ago and processes are still there")};
  }
  if (!anyone || now - last < config_.progress_timeout) return std::nullopt;
  const Rank& slow = culprit();
  std::string text =
      absl::StrCat("no rank got on for ", seconds(now - last), " s: ", describe(slow.info.rank()),
                   " lags at collective ", slow.heartbeat.comm_sequence());
  if (!slow.heartbeat.comm_op().empty())
    absl::StrAppend(&text, " (", slow.heartbeat.comm_op(), ")");
  int64_t farthest = 0;
  for (const Rank& rank : ranks_) farthest = std::max(farthest, rank.heartbeat.comm_sequence());
  absl::StrAppend(&text, ", the others are at ", farthest);
  return Alarm{Finding::hang, text};
}

// Ranks that wait in a collective have started it; the one they wait for has not, or has started
// it and not come out. Ties go to a rank that is not in a collective, then to the lower step, then
// to the one that has been silent for longest: a process that is stopped says nothing at all.
const AttemptMonitor::Rank& AttemptMonitor::culprit() const {
  const auto key = [](const Rank& r) {
    return std::tuple(r.ended, r.heartbeat.comm_sequence(), r.heartbeat.comm_completed(),
                      !r.heartbeat.comm_op().empty(), r.heartbeat.step(), r.last_heard);
  };
  return *std::min_element(ranks_.begin(), ranks_.end(),
                           [&](const Rank& a, const Rank& b) { return key(a) < key(b); });
}

std::string AttemptMonitor::describe(int index) const {
  if (index < 0 || index >= config_.ranks) return absl::StrCat("rank ", index);
  const Rank& rank = ranks_[static_cast<size_t>(index)];
  std::string text = absl::StrCat("rank ", index);
  if (rank.joined) absl::StrAppend(&text, " on host ", rank.info.host());
  if (!rank.heartbeat.phase().empty()) {
    absl::StrAppend(&text, " in step ", rank.heartbeat.step(), ", phase ", rank.heartbeat.phase());
  }
  return text;
}

const v1::RankInfo* AttemptMonitor::info(int rank) const {
  if (rank < 0 || rank >= config_.ranks) return nullptr;
  const Rank& found = ranks_[static_cast<size_t>(rank)];
  return found.joined && !found.ended ? &found.info : nullptr;
}

}  // namespace emoe::server
