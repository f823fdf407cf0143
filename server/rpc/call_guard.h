#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/server_context.h>

#include "base/clock.h"
#include "base/status.h"
#include "server/security/audit_log.h"
#include "server/security/authorizer.h"
#include "server/security/rate_limiter.h"
#include "server/security/security_probe.h"
#include "server/security/token_file.h"

namespace emoe::server {

// One call of FineTuning on its way through the server.
struct Call {
  const char* method = "";
  std::string job_id = {};                // of the request, or of the answer once it is known
  std::vector<std::string> job_ids = {};  // of a call about many jobs: each gets a line of its own
  std::string peer = {};                  // address of the client, as gRPC writes it
  Principal who = {};                     // once the guard has let it in
};

// The door that each call of FineTuning passes once: who is it (UNAUTHENTICATED / NO_TOKEN, WRONG_TOKEN), does
// it call too often (RESOURCE_EXHAUSTED / TOO_MANY_CALLS), has it the role (PERMISSION_DENIED /
// ROLE_TOO_LOW), and can what it changes be written down (UNAVAILABLE / AUDIT_FAILED). Whose job it is, is
// asked by the handler. Thread-safe; what it is given outlives it.
class CallGuard {
 public:
  struct Config {
    TokenFile* tokens = nullptr;     // null: no authentication
    AuditLog* audit = nullptr;       // null: nothing is written down
    SecurityProbe* probe = nullptr;  // null: nothing is measured
    double calls_per_second =
        0;  // of a principal, without authentication of an address; 0: no limit
    int call_burst = 1;
  };
  CallGuard(const Config& config, const Clock& clock);

  // Fills in call.who.
  [[nodiscard]] Status admit(const grpc::ServerContextBase& context, Call& call);
  // Whether the token of a call that goes on is still its caller's, to be asked later. Never throws.
  [[nodiscard]] std::function<bool()> still_admits(const grpc::ServerContextBase& context,
                                                   const Call& call) const;
  // The audit line of a call that changes something, or would have; of many jobs a line for each.
  void record(const Call& call, const Status& result);
  // Null without an audit log.
  [[nodiscard]] AuditLog* audit() const { return config_.audit; }
  [[nodiscard]] bool authenticates() const { return config_.tokens != nullptr; }

 private:
  [[nodiscard]] Status authenticate(const grpc::ServerContextBase& context, Call& call);
  [[nodiscard]] Status limit(RateLimiter& limiter, const std::string& caller);
  void count(const char* reason);

  const Config config_;
  const Clock& clock_;
  RateLimiter calls_;
  RateLimiter strangers_;  // by address: calls without a token that counts
};

}  // namespace emoe::server
