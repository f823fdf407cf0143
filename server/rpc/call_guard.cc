#include "server/rpc/call_guard.h"

#include <algorithm>
#include <string_view>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "server/control/job_registry.h"
#include "server/job/errors.h"
#include "server/rpc/grpc_status.h"

namespace emoe::server {
namespace {

constexpr char kHeader[] = "authorization";
constexpr std::string_view kScheme = "bearer ";
// Enough for a person who mistypes and a script that tries again; too few to look for a token, or to
// fill the disk with audit lines.
constexpr RateLimiter::Config kStrangers{.per_second = 20, .burst = 200};

// The token of a call; nothing where there is no header of that form.
std::string token_of(const grpc::ServerContextBase& context) {
  const auto found = context.client_metadata().find(kHeader);
  if (found == context.client_metadata().end()) return "";
  const std::string value(found->second.data(), found->second.size());
  if (!absl::StartsWithIgnoreCase(value, std::string(kScheme))) return "";
  return std::string(absl::StripAsciiWhitespace(value.substr(kScheme.size())));
}

// "ipv4:10.0.0.7:4711" without the port, which is another one for each connection.
std::string address_of(const std::string& peer) {
  return peer.substr(0, peer.rfind(':'));
}

}  // namespace

CallGuard::CallGuard(const Config& config, const Clock& clock)
    : config_(config),
      clock_(clock),
      calls_({.per_second = config.calls_per_second,
              .burst = std::max(1.0, static_cast<double>(config.call_burst))},
             clock),
      strangers_(kStrangers, clock) {}

void CallGuard::count(const char* reason) {
  if (config_.probe != nullptr) config_.probe->refused(reason);
}

Status CallGuard::limit(RateLimiter& limiter, const std::string& caller) {
  const auto wait = limiter.take(caller);
  if (!wait) return ok_status();
  count("rate");
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(*wait).count();
  return make_error(StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
                    absl::StrCat("too many calls; try again in ", milliseconds, " ms"),
                    {{"retry_milliseconds", absl::StrCat(milliseconds)}});
}

Status CallGuard::authenticate(const grpc::ServerContextBase& context, Call& call) {
  const std::string token = token_of(context);
  const auto found = token.empty() ? std::nullopt : config_.tokens->find(token);
  if (found) {
    call.who = *found;
    return ok_status();
  }
  call.who = {.name = "", .role = Role::viewer, .project = "", .allowed_roots = {}};
  EMOE_RETURN_IF_ERROR(limit(strangers_, address_of(call.peer)));
  count("unauthenticated");
  if (token.empty()) {
    return make_error(StatusCode::kUnauthenticated, "NO_TOKEN",
                      "this service wants a token: metadata \"authorization: Bearer TOKEN\" "
                      "(emoectl: EMOE_TOKEN_FILE)");
  }
  return make_error(StatusCode::kUnauthenticated, "WRONG_TOKEN",
                    "the token is not one of this service's (any more)");
}

Status CallGuard::admit(const grpc::ServerContextBase& context, Call& call) {
  if (config_.tokens != nullptr) {
    EMOE_RETURN_IF_ERROR(authenticate(context, call));
    EMOE_RETURN_IF_ERROR(limit(calls_, call.who.name));
  } else {
    EMOE_RETURN_IF_ERROR(limit(calls_, address_of(call.peer)));
  }
  if (const Status role = check_role(call.method, call.who); !role.ok()) {
    count("permission");
    return role;
  }
  const bool changes = rule_of(call.method)->changes;
  return changes && config_.audit != nullptr ? config_.audit->ready() : ok_status();
}

std::function<bool()> CallGuard::still_admits(const grpc::ServerContextBase& context,
                                              const Call& call) const {
  if (config_.tokens == nullptr) return [] { return true; };
  return [tokens = config_.tokens, token = token_of(context), who = call.who] {
    const auto now = tokens->find(token);
    return now && now->project == who.project && now->role == who.role;
  };
}

void CallGuard::record(const Call& call, const Status& result) {
  const MethodRule* const rule = rule_of(call.method);
  if (config_.audit == nullptr || rule == nullptr || !rule->changes) return;
  const std::string reason = error_detail_of(result).reason;
  // These are many, and nothing came of them; the first would be waiting for a disk that is full.
  if (reason == "AUDIT_FAILED" || reason == "TOO_MANY_CALLS") return;
  v1::AuditEntry entry;
  *entry.mutable_time() = to_timestamp(clock_.wall_now());
  entry.set_principal(call.who.name);
  if (config_.tokens != nullptr && !call.who.name.empty()) entry.set_role(to_string(call.who.role));
  entry.set_project(call.who.project);
  entry.set_peer(call.peer);
  entry.set_method(call.method);
  entry.set_job_id(call.job_id);
  entry.set_code(code_name(static_cast<grpc::StatusCode>(result.code())));
  entry.set_reason(reason);
  if (call.job_ids.empty()) {
    config_.audit->append(entry);
  } else {
    config_.audit->append(std::move(entry), call.job_ids);
  }
}

}  // namespace emoe::server
