#include "server/control/session_manager.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/delimited_message_util.h>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/log.h"
#include "server/control/report_writer.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

Status stale(const std::string& text) {
  return make_error(StatusCode::kFailedPrecondition, "STALE_ATTEMPT", text);
}

// The reports that a rank could not deliver and left in a file, in order (for the format see
// proto/emoe/v1/worker_control_service.proto). Empty without a file; a torn report at the end is
// ignored. DATA_LOSS for a file of something else.
Result<std::vector<v1::Report>> read_left_reports(const std::filesystem::path& attempt_dir,
                                                  int rank) {
  const auto path = attempt_dir / left_reports_file(rank);
  std::vector<v1::Report> reports;
  auto bytes = read_file(path);
  if (bytes.status().code() == StatusCode::kNotFound) return reports;
  EMOE_RETURN_IF_ERROR(bytes.status());
  google::protobuf::io::ArrayInputStream stream(bytes->data(), static_cast<int>(bytes->size()));
  v1::Report report;
  bool at_end = false;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&report, &stream, &at_end)) {
    reports.push_back(report);
    report.Clear();
  }
  if (reports.empty() && !bytes->empty()) {
    return absl::DataLossError(absl::StrCat(path.string(), " holds no reports"));
  }
  return reports;
}

// All ranks have joined.
Status run(JobEdit& edit) {
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::all_joined, v1::REASON_UNSPECIFIED, ""));
  // Rank 0 may reach the export before the last rank has joined.
  if (edit.current().progress().phase() != kExportPhase) return ok_status();
  return edit.apply(JobEvent::export_began, v1::REASON_UNSPECIFIED, "");
}

}  // namespace

struct SessionManager::Entry {
  JobEdit edit;
  std::map<int, int64_t> staged;  // by rank: the newest sequence in this round
  std::map<int, std::shared_ptr<SessionChannel>> welcome;
  std::map<int, std::shared_ptr<SessionChannel>> ack;
};

// The changes of one round so far, and the ranks to answer once they are stored.
struct SessionManager::Round {
  std::map<LiveJob*, Entry> entries;
  const Clock& clock;
  SteadyTime now;

  Entry& of(LiveJob& live) {
    return entries.try_emplace(&live, Entry{JobEdit(live, clock), {}, {}, {}}).first->second;
  }
};

SessionManager::SessionManager(JobRegistry& jobs, JobStore& store, const Clock& clock,
                               CoordinatorProbe& probe, FailureLog& failures)
    : jobs_(jobs), store_(store), clock_(clock), probe_(probe), failures_(failures) {}

void SessionManager::process(const std::vector<SessionMessage>& messages, SteadyTime now) {
  Round round{{}, clock_, now};
  for (const SessionMessage& message : messages) {
    const auto& channel = message.channel;
    if (const auto* body = std::get_if<v1::Join>(&message.body)) join(round, channel, *body);
    if (const auto* body = std::get_if<v1::RankHeartbeat>(&message.body)) {
      heartbeat(*channel, *body, now);
    }
    if (const auto* body = std::get_if<v1::Report>(&message.body)) report(round, channel, *body);
    if (std::holds_alternative<SessionClosed>(message.body)) leave(*channel, now);
  }
  failures_.note("reports could not be stored", finish(round));
  for (const SessionMessage& message : messages) message.channel->consumed();
}

Status SessionManager::admit(const v1::Join& request, SteadyTime now, LiveJob*& live) {
  live = jobs_.find(request.job_id());
  if (live == nullptr || is_terminal(live->record.job.state())) {
    EMOE_RETURN_IF_ERROR(store_.job(request.job_id()).status());
    return stale(absl::StrCat("job ", request.job_id(), " has ended"));
  }
  if (live->attempt == nullptr || live->attempt->monitor == nullptr ||
      request.attempt() != live->attempt->record.number) {
    return stale(absl::StrCat("attempt ", request.attempt(), " of job ", request.job_id(),
                              " is over; this process must exit"));
  }
  const AttemptRecord& attempt = live->attempt->record;
  if (request.token() != attempt.token) {
    return make_error(StatusCode::kPermissionDenied, "BAD_TOKEN",
                      "the token is not this attempt's");
  }
  if (attempt.stop_reason && !stop_command(*attempt.stop_reason)) {
    return stale(
        absl::StrCat("attempt ", request.attempt(), " is being removed: ", attempt.stop_message));
  }
  const Status joined = live->attempt->monitor->join(request.rank(), now);
  return with_reason(joined, "WORLD_SIZE_MISMATCH");
}

void SessionManager::join(Round& round, const std::shared_ptr<SessionChannel>& channel,
                          const v1::Join& request) {
  LiveJob* live = nullptr;
  if (const Status status = admit(request, round.now, live); !status.ok()) {
    log_warning("job %s: rank %d refused: %s", request.job_id(), request.rank().rank(),
                std::string(status.message()));
    channel->close(status);
    return;
  }
  const int rank = request.rank().rank();
  auto& links = live->attempt->links;
  if (const auto old = links.find(rank); old != links.end() && old->second.channel != channel) {
    old->second.channel->close(absl::AbortedError("the rank opened another stream"));
    ranks_.erase(old->second.channel.get());
  }
  Entry& entry = round.of(*live);
  const auto stored = store_.committed_sequence(request.job_id(), request.attempt(), rank);
  if (!stored.ok()) {
    channel->close(stored.status());
    return;
  }
  links[rank] = {channel, *stored};
  ranks_[channel.get()] = {request.job_id(), request.attempt(), rank};
  entry.welcome[rank] = channel;

  auto& ranks = *entry.edit.public_attempt().mutable_ranks();
  const auto known = std::find_if(ranks.begin(), ranks.end(),
                                  [&](const v1::RankInfo& info) { return info.rank() == rank; });
  (known == ranks.end() ? *ranks.Add() : *known) = request.rank();
  std::sort(ranks.begin(), ranks.end(),
            [](const v1::RankInfo& a, const v1::RankInfo& b) { return a.rank() < b.rank(); });
  entry.edit.touch();
  if (live->attempt->monitor->all_joined() && entry.edit.current().state() == v1::STARTING) {
    const Status running = run(entry.edit);
    if (!running.ok()) log_error("%s", std::string(running.message()));
  }
}

LiveJob* SessionManager::find_live(const SessionChannel& channel, RankId& id) {
  const auto found = ranks_.find(&channel);
  if (found == ranks_.end()) return nullptr;
  id = found->second;
  LiveJob* live = jobs_.find(id.job_id);
  const bool current =
      live != nullptr && live->attempt != nullptr && live->attempt->record.number == id.attempt;
  return current ? live : nullptr;
}

void SessionManager::heartbeat(SessionChannel& channel, const v1::RankHeartbeat& heartbeat,
                               SteadyTime now) {
  RankId id;
  LiveJob* live = find_live(channel, id);
  if (live != nullptr) live->attempt->monitor->heartbeat(id.rank, heartbeat, now);
}

void SessionManager::report(Round& round, const std::shared_ptr<SessionChannel>& channel,
                            const v1::Report& report) {
  RankId id;
  LiveJob* live = find_live(*channel, id);
  if (live == nullptr) return channel->close(stale("join first; or the attempt is over"));
  live->attempt->monitor->reported(id.rank, round.now);
  round.of(*live).ack[id.rank] = channel;  // also of what was stored before
  const int64_t stored = live->attempt->links[id.rank].sequence;
  if (const Status status = stage(round, *live, id.rank, stored, report); !status.ok()) {
    round.of(*live).ack.erase(id.rank);
    channel->close(status);
  }
}

Status SessionManager::stage(Round& round, LiveJob& live, int rank, int64_t stored,
                             const v1::Report& report) {
  Entry& entry = round.of(live);
  const auto staged = entry.staged.find(rank);
  const int64_t have = staged != entry.staged.end() ? staged->second : stored;
  if (report.sequence() <= have) return ok_status();
  if (report.sequence() != have + 1) {
    return make_error(
        StatusCode::kInvalidArgument, "SEQUENCE_GAP",
        absl::StrCat("report ", report.sequence(), " came after ", have, ": reports have no gaps"));
  }
  ReportWriter writer(live, entry.edit, store_, probe_);
  EMOE_RETURN_IF_ERROR(writer.write(rank, report));
  entry.staged[rank] = report.sequence();
  return ok_status();
}

Status SessionManager::take_left_reports(LiveJob& live, const std::filesystem::path& attempt_dir) {
  Round round{{}, clock_, clock_.steady_now()};
  const AttemptRecord& attempt = live.attempt->record;
  const std::string who = absl::StrCat("job ", attempt.job_id, ": reports left by rank ");
  for (int rank = 0; rank < ranks_of(live.record.job); ++rank) {
    const auto left = read_left_reports(attempt_dir, rank);
    failures_.note(absl::StrCat(who, rank), left.status());
    if (!left.ok() || left->empty()) continue;
    EMOE_ASSIGN_OR_RETURN(const int64_t stored,
                          store_.committed_sequence(attempt.job_id, attempt.number, rank));
    for (const v1::Report& report : *left) {
      if (report.sequence() <= stored) continue;
      const Status status = stage(round, live, rank, stored, report);
      if (status.code() == StatusCode::kInternal) return status;
      failures_.note(absl::StrCat(who, rank), status);
      if (!status.ok()) break;
    }
  }
  return finish(round);
}

void SessionManager::leave(const SessionChannel& channel, SteadyTime now) {
  RankId id;
  if (LiveJob* live = find_live(channel, id); live != nullptr) {
    live->attempt->monitor->disconnected(id.rank, now);
    const auto link = live->attempt->links.find(id.rank);
    if (link != live->attempt->links.end() && link->second.channel.get() == &channel) {
      live->attempt->links.erase(link);
    }
  }
  ranks_.erase(&channel);
}

Status SessionManager::finish(Round& round) {
  if (round.entries.empty()) return ok_status();
  std::vector<std::pair<LiveJob*, JobEdit>> edits;
  for (auto& [live, entry] : round.entries) {
    for (const auto& [rank, sequence] : entry.staged) {
      const AttemptRecord& attempt = live->attempt->record;
      entry.edit.rows().cursors.push_back({attempt.job_id, attempt.number, rank, sequence});
    }
    edits.emplace_back(live, std::move(entry.edit));
  }
  const Status stored = jobs_.commit(std::move(edits));
  for (auto& [live, entry] : round.entries) {
    if (stored.ok()) {
      answer(*live, entry);
      continue;
    }
    // Ranks keep what was not acknowledged and connect again.
    for (const auto& [rank, channel] : entry.welcome) channel->close(stored);
    for (const auto& [rank, channel] : entry.ack) channel->close(stored);
  }
  return stored;
}

// Everything of the entry is stored.
void SessionManager::answer(LiveJob& live, const Entry& entry) {
  auto& links = live.attempt->links;
  for (const auto& [rank, sequence] : entry.staged) {
    if (links.contains(rank)) links[rank].sequence = sequence;
  }
  for (const auto& [rank, channel] : entry.welcome) {
    if (links.contains(rank)) channel->welcome(links[rank].sequence);
  }
  for (const auto& [rank, channel] : entry.ack) {
    if (links.contains(rank)) channel->ack(links[rank].sequence);
  }
  if (!live.attempt->stopping_since) return;
  for (const auto& [rank, channel] : entry.welcome) {  // a rank that came back must hear it too
    channel->command(*stop_command(*live.attempt->record.stop_reason));
  }
}

void SessionManager::dismiss(LiveJob& live, const Status& why) {
  for (const auto& [rank, link] : live.attempt->links) {
    link.channel->close(why);
    ranks_.erase(link.channel.get());
  }
  live.attempt->links.clear();
}

void SessionManager::command_stop(LiveJob& live) {
  const RankCommand command = *stop_command(*live.attempt->record.stop_reason);
  for (const auto& [rank, link] : live.attempt->links) link.channel->command(command);
}

}  // namespace emoe::server
