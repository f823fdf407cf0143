#include "server/security_parts.h"

#include "base/log.h"
#include "server/security/security_config.h"

namespace emoe::server {

Result<Security> open_security(const v1::CoordinatorConfig& config, SecurityProbe& probe) {
  Security security;
  if (!config.tls().certificate().empty()) {
    EMOE_ASSIGN_OR_RETURN(security.certificates, CertificateFiles::open(config.tls(), probe));
  }
  if (!config.auth().tokens().empty()) {
    EMOE_ASSIGN_OR_RETURN(
        security.tokens,
        TokenFile::open(config.auth().tokens(),
                        {config.allowed_roots().begin(), config.allowed_roots().end()}, probe));
  }
  EMOE_ASSIGN_OR_RETURN(security.audit, AuditLog::open(config.auth().audit(), probe));
  return security;
}

metrics::ServerTls Security::metrics_tls() const {
  const auto now = certificates->current();
  return {now->certificate, now->key, now->client_ca};
}

void warn_of_access(const v1::CoordinatorConfig& config, const std::string& address,
                    const Security& security) {
  if (config.allow_insecure() && security.certificates == nullptr &&
      !(is_loopback(config.listen()) && is_loopback(config.metrics_listen()))) {
    log_warning("allow_insecure: whoever reaches %s may read what is sent%s", address,
                security.tokens == nullptr ? ", and do everything" : "");
  }
  if (security.certificates == nullptr) return;
  const std::string host = host_of(address);
  if (security.certificates->covers(host)) return;
  log_warning(
      "%s is not made out for \"%s\", by which ranks and people reach this coordinator "
      "(advertise): they will refuse it",
      config.tls().certificate(), host);
}

}  // namespace emoe::server
