#include "server/security/security_probe.h"

namespace emoe::server {

SecurityProbe::SecurityProbe(metrics::Registry& registry) : registry_(registry) {
  // These begin at 0: the first increase of a counter is then seen.
  for (const char* what : {"tokens", "certificate"}) {
    for (const char* result : {"taken", "refused"}) {
      reloads_[std::string(what) + "/" + result] =
          registry_.counter("emoe_security_reloads_total",
                            "Changed files of tokens and certificates, by whether they were taken.",
                            {{"file", what}, {"result", result}});
    }
  }
  for (const char* reason : {"unauthenticated", "permission", "rate"}) {
    refused_[reason] =
        registry_.counter("emoe_calls_refused_total",
                          "Calls refused for who made them, or how many.", {{"reason", reason}});
  }
  audit_failures_ = registry_.counter("emoe_audit_failures_total",
                                      "Audit lines that could not be written at once.", {});
}

void SecurityProbe::reloaded(const std::string& what, bool taken) {
  reloads_.at(what + (taken ? "/taken" : "/refused"))->increment();
}

void SecurityProbe::certificate_expires(double unix_seconds) {
  const std::lock_guard lock(mutex_);
  if (!expiry_) {
    expiry_ = registry_.gauge("emoe_tls_certificate_expiry_timestamp_seconds",
                              "When the server's certificate expires.", {});
  }
  expiry_->set(unix_seconds);
}

void SecurityProbe::refused(const std::string& reason) {
  refused_.at(reason)->increment();
}

void SecurityProbe::audit_failed() {
  audit_failures_->increment();
}

}  // namespace emoe::server
