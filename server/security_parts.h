#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "emoe/v1/service_config.pb.h"
#include "metrics/prometheus.h"
#include "server/security/audit_log.h"
#include "server/security/certificate_files.h"
#include "server/security/security_probe.h"
#include "server/security/token_file.h"

namespace emoe::server {

// What decides who gets in; null where the configuration has none.
struct Security {
  std::unique_ptr<CertificateFiles> certificates;
  std::unique_ptr<TokenFile> tokens;
  std::unique_ptr<AuditLog> audit;

  // The certificates of this moment, for /metrics.
  [[nodiscard]] metrics::ServerTls metrics_tls() const;
};

// Errors are those of its parts. `probe` outlives it.
[[nodiscard]] Result<Security> open_security(const v1::CoordinatorConfig& config,
                                             SecurityProbe& probe);

// Logs what an administrator should know: that anybody may come in, or that those who reach the
// coordinator under `address` will not find its name in the certificate.
void warn_of_access(const v1::CoordinatorConfig& config, const std::string& address,
                    const Security& security);

}  // namespace emoe::server
