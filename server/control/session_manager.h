#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "emoe/v1/report.pb.h"
#include "server/control/coordinator_probe.h"
#include "server/control/failure_log.h"
#include "server/control/job_registry.h"
#include "server/session/session_channel.h"

namespace emoe::server {

struct SessionClosed {};

// One message of a rank's stream; the controller processes them in the order of arrival.
struct SessionMessage {
  std::shared_ptr<SessionChannel> channel;
  std::variant<v1::Join, v1::RankHeartbeat, v1::Report, SessionClosed> body;
};

// The sessions of all ranks: decides which ranks may join, knows which stream belongs to which rank,
// and turns reports into stored events. All reports of one round are stored in one transaction and
// acknowledged only after it. Only the controller uses it, under its lock.
class SessionManager {
 public:
  SessionManager(JobRegistry& jobs, JobStore& store, const Clock& clock, CoordinatorProbe& probe,
                 FailureLog& failures);

  // `now`: when the round began, before the messages were taken. Liveness is judged at that time:
  // what is not among them came later.
  void process(const std::vector<SessionMessage>& messages, SteadyTime now);
  // Stores the reports that the ranks of an ended attempt left in its folder because no coordinator
  // was there to take them.
  [[nodiscard]] Status take_left_reports(LiveJob& live, const std::filesystem::path& attempt_dir);
  // Ends the streams of an attempt that is over.
  void dismiss(LiveJob& live, const Status& why);
  // Tells every connected rank to leave as the attempt's stop_reason wants it.
  static void command_stop(LiveJob& live);

 private:
  struct RankId {
    std::string job_id;
    int attempt = 0;
    int rank = 0;
  };
  struct Entry;  // the changes of one round in one job, and the ranks to answer
  struct Round;

  void join(Round& round, const std::shared_ptr<SessionChannel>& channel, const v1::Join& request);
  [[nodiscard]] Status admit(const v1::Join& request, SteadyTime now, LiveJob*& live);
  void heartbeat(SessionChannel& channel, const v1::RankHeartbeat& heartbeat, SteadyTime now);
  void report(Round& round, const std::shared_ptr<SessionChannel>& channel,
              const v1::Report& report);
  // Adds a report to the round unless it is stored already; `stored` is the rank's cursor. A gap in
  // the sequence is INVALID_ARGUMENT / SEQUENCE_GAP.
  [[nodiscard]] Status stage(Round& round, LiveJob& live, int rank, int64_t stored,
                             const v1::Report& report);
  void leave(const SessionChannel& channel, SteadyTime now);
  [[nodiscard]] Status finish(Round& round);
  static void answer(LiveJob& live, const Entry& entry);
  // The live attempt that a stream belongs to, and which rank it is; null when the attempt is over.
  [[nodiscard]] LiveJob* find_live(const SessionChannel& channel, RankId& id);

  JobRegistry& jobs_;
  JobStore& store_;
  const Clock& clock_;
  CoordinatorProbe& probe_;
  FailureLog& failures_;
  std::unordered_map<const SessionChannel*, RankId> ranks_;  // the rank behind each stream
};

}  // namespace emoe::server
