#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "metrics/metrics.h"

namespace emoe::server {

// What is measured of the coordinator's security (docs/METRICS.md). Thread-safe.
class SecurityProbe {
 public:
  explicit SecurityProbe(metrics::Registry& registry);

  // `what`: tokens, certificate. A file that changed was taken, or the old content was kept.
  void reloaded(const std::string& what, bool taken);
  void certificate_expires(double unix_seconds);
  // `reason`: unauthenticated, permission, rate.
  void refused(const std::string& reason);
  void audit_failed();

 private:
  metrics::Registry& registry_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<metrics::Counter>> reloads_;  // by file and result
  std::map<std::string, std::shared_ptr<metrics::Counter>> refused_;
  std::shared_ptr<metrics::Counter> audit_failures_;
  std::shared_ptr<metrics::Gauge> expiry_;  // null before a certificate is there
};

}  // namespace emoe::server
