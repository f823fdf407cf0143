#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "server/control/coordinator_probe.h"
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
  SessionDesk(JobBook& book, JobStore& store, const Clock& clock, CoordinatorProbe& probe);

  void process(std::vector<SessionMessage> messages);
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
  struct Round;

  void join(Round& round, const std::shared_ptr<SessionChannel>& channel,
            const JoinRequest& request);
  [[nodiscard]] Status admit(const JoinRequest& request, LiveJob*& live);
  void pulse(SessionChannel& channel, const RankPulse& pulse);
  void report(Round& round, const std::shared_ptr<SessionChannel>& channel,
              const RankReport& report);
  void leave(const SessionChannel& channel);
  void finish(Round& round);
  // The live attempt a stream sits at; null when it is over.
  [[nodiscard]] LiveJob* seated(const SessionChannel& channel, Seat& seat);

  JobBook& book_;
  JobStore& store_;
  const Clock& clock_;
  CoordinatorProbe& probe_;
  std::unordered_map<const SessionChannel*, Seat> seats_;
};

}  // namespace emoe::server
