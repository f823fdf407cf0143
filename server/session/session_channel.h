#pragma once

#include <cstdint>

#include "base/status.h"

namespace emoe::server {

enum class RankCommand { stop, checkpoint_and_stop };

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
