#include "server/control/host_pool.h"

#include <chrono>

#include <absl/strings/str_cat.h>

#include "base/log.h"
#include "server/job/retry_policy.h"

namespace emoe::server {

Pool HostPool::in_service(SteadyTime now) const {
  Pool pool{config_.capacity, {}, ""};
  for (const Pool::Host& host : config_.hosts) {
    const std::string why = problem(host.name, now);
    // One without room keeps its place: a pool without hosts would be one of slots alone.
    pool.hosts.push_back(why.empty() ? host : Pool::Host{host.name, 0, 0});
    if (!why.empty()) absl::StrAppend(&pool.missing, "; ", why);
  }
  return pool;
}

std::string HostPool::problem(const std::string& host, SteadyTime now) const {
  const auto found = troubles_.find(host);
  if (found == troubles_.end() || found->second.until <= now) return "";
  const auto left = std::chrono::ceil<std::chrono::seconds>(found->second.until - now);
  return absl::StrCat("host ", host, " gets no ranks for ", left.count(),
                      " s: ", found->second.why);
}

void HostPool::failed(const std::string& host, const std::string& why, SteadyTime now) {
  Trouble& trouble = troubles_[host];
  ++trouble.failures;
  trouble.until = now + retry_pause(config_.host_pause, trouble.failures);
  trouble.why = why;
  log_warning("%s", problem(host, now));
}

}  // namespace emoe::server
