#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "server/control/coordinator_probe.h"
#include "server/control/failure_log.h"
#include "server/control/job_book.h"
#include "server/session/types.h"

namespace emoe::server {

struct SessionClosed {};

// One thing a rank's stream brought; the controller deals with them in the order of arrival.
struct SessionMessage {
  std::shared_ptr<SessionChannel> channel;
  std::variant<JoinRequest, RankPulse, RankReport, SessionClosed> body;
};

// Where ranks are received: decides who may join, keeps which stream belongs to which rank, turns
// reports into stored events. All reports of one round are stored in one transaction and
// acknowledged only after it. Only the controller uses it, under its lock.
class SessionDesk {
 public:
  SessionDesk(JobBook& book, JobStore& store, const Clock& clock, CoordinatorProbe& probe,
              FailureLog& failures);

  // `now`: when the round began. What is not among its messages came later, so liveness is judged
  // by that time too.
  void process(const std::vector<SessionMessage>& messages, SteadyTime now);
  // Stores what the ranks of an ended attempt left in its folder because no coordinator was there
  // to hear it.
  [[nodiscard]] Status take_left_reports(LiveJob& live, const std::filesystem::path& attempt_dir);
  // Ends the streams of an attempt that is over.
  void dismiss(LiveJob& live, const Status& why);
  // To every connected rank.
  static void command(LiveJob& live, RankCommand command);

 private:
  struct Seat {
    std::string job_id;
    int attempt = 0;
    int rank = 0;
  };
  struct Entry;  // what a round changed in one job, and whom to tell
  struct Round;

  void join(Round& round, const std::shared_ptr<SessionChannel>& channel,
            const JoinRequest& request);
  [[nodiscard]] Status admit(const JoinRequest& request, SteadyTime now, LiveJob*& live);
  void pulse(SessionChannel& channel, const RankPulse& pulse, SteadyTime now);
  void report(Round& round, const std::shared_ptr<SessionChannel>& channel,
              const RankReport& report);
  // Adds a report to the round unless it is stored already; `stored` is the rank's cursor. A gap in
  // the sequence is INVALID_ARGUMENT / SEQUENCE_GAP.
  [[nodiscard]] Status stage(Round& round, LiveJob& live, int rank, int64_t stored,
                             const RankReport& report);
  void leave(const SessionChannel& channel, SteadyTime now);
  [[nodiscard]] Status finish(Round& round);
  static void answer(LiveJob& live, const Entry& entry);
  // The live attempt a stream sits at; null when it is over.
  [[nodiscard]] LiveJob* seated(const SessionChannel& channel, Seat& seat);

  JobBook& book_;
  JobStore& store_;
  const Clock& clock_;
  CoordinatorProbe& probe_;
  FailureLog& failures_;
  std::unordered_map<const SessionChannel*, Seat> seats_;
};

}  // namespace emoe::server
