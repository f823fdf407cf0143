#pragma once

#include <cstdint>
#include <optional>

#include "base/status.h"
#include "server/job/retry_policy.h"

namespace emoe::server {

enum class RankCommand { stop, checkpoint_and_stop };

// What a rank is told that is to leave for this reason; nothing where its attempt is in pieces and is
// killed.
[[nodiscard]] constexpr std::optional<RankCommand> stop_command(Finding finding) {
  if (finding == Finding::cancelled) return RankCommand::stop;
  const bool keeps = finding == Finding::max_runtime || leaves_at_step_edge(finding);
  return keeps ? std::optional(RankCommand::checkpoint_and_stop) : std::nullopt;
}

// The coordinator's end of one rank's stream. Implementations queue and return at once, are
// thread-safe, and may be called after the stream is gone (nothing happens then).
class SessionChannel {
 public:
  virtual ~SessionChannel() = default;
  virtual void welcome(int64_t committed_sequence) = 0;
  virtual void ack(int64_t sequence) = 0;
  virtual void command(RankCommand command) = 0;
  // Ends the stream; nothing is sent after it.
  virtual void close(const Status& status) = 0;
  // One message of this stream was processed: the stream may read another.
  virtual void consumed() = 0;
};

}  // namespace emoe::server
