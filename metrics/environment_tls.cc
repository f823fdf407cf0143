#include <cstdlib>

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "metrics/prometheus.h"

namespace emoe::metrics {
namespace {

constexpr size_t kLargestPem = 4 << 20;

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A file that cannot be read leaves its part empty: such a connection is refused.
ServerTls read(const std::string& certificate, const std::string& key,
               const std::string& client_ca) {
  ServerTls tls;
  tls.certificate = read_file(certificate, kLargestPem).value_or("");
  tls.key = read_file(key, kLargestPem).value_or("");
  // An authority that cannot be read must not let everybody in.
  if (!client_ca.empty()) tls.client_ca = read_file(client_ca, kLargestPem).value_or("unreadable");
  return tls;
}

}  // namespace

Result<std::function<ServerTls()>> tls_of_environment() {
  const std::string certificate = variable(kTlsCertificateVariable);
  const std::string key = variable(kTlsKeyVariable);
  const std::string client_ca = variable(kTlsClientCaVariable);
  if (certificate.empty() && key.empty() && client_ca.empty()) return std::function<ServerTls()>();
  if (certificate.empty() || key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(kTlsCertificateVariable, " and ",
                                                   kTlsKeyVariable, " go together, and ",
                                                   kTlsClientCaVariable, " goes with both"));
  }
  for (const std::string& file : {certificate, key, client_ca}) {
    if (file.empty()) continue;
    EMOE_RETURN_IF_ERROR(read_file(file, kLargestPem).status());
  }
  return std::function<ServerTls()>([=] { return read(certificate, key, client_ca); });
}

}  // namespace emoe::metrics
