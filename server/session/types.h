#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/status.h"
#include "emoe/v1/job.pb.h"

// What the coordinator uses of what ranks tell it, as plain values; rpc/ translates to and from the
// wire (proto/emoe/v1/worker_control_service.proto and report.proto say what each means).
namespace emoe::server {

struct JoinRequest {
  std::string job_id;
  int attempt = 0;
  v1::RankInfo rank;
  std::string token;
};

struct RankPulse {
  int64_t step = 0;
  std::string phase;
  int64_t comm_sequence = 0;   // collectives started
  int64_t comm_completed = 0;  // collectives finished
  std::string comm_op;
  int64_t host_rss_bytes = 0;
  double seconds_in_phase = 0;
  int64_t work_done = 0;  // pieces of work, the smallest signs of getting on
};

struct StepReport {
  std::optional<v1::StepMetrics> metrics;  // rank 0 only
};

struct ResumeReport {
  v1::CheckpointInfo checkpoint;
};

struct EndReport {
  int exit_code = 0;
  std::string message;
};

struct RankReport {
  int64_t sequence = 0;
  std::variant<std::monostate, StepReport, v1::EvalResult, v1::CheckpointInfo, ResumeReport,
               v1::LogMessage, v1::PhaseChange, v1::MergeSummary, EndReport>
      body;
};

enum class RankCommand { stop, checkpoint, checkpoint_and_stop };

// The coordinator's end of one rank's stream. Implementations queue and return at once, are
// thread-safe, and may be called after the stream is gone (nothing happens then).
class SessionChannel {
 public:
  virtual ~SessionChannel() = default;
  virtual void welcome(int64_t committed_sequence) = 0;
  virtual void ack(int64_t sequence) = 0;
  virtual void command(RankCommand command) = 0;
  // Ends the stream; nothing is sent behind it.
  virtual void close(const Status& status) = 0;
  // One message of this stream was dealt with: the stream may read another.
  virtual void consumed() = 0;
};

}  // namespace emoe::server
