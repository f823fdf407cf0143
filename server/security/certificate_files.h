#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "emoe/v1/service_config.pb.h"
#include "server/security/reread_files.h"
#include "server/security/security_probe.h"

namespace emoe::server {

// The PEM texts of one moment, which fit together.
struct Certificates {
  std::string certificate;  // with its chain
  std::string key;
  std::string client_ca;  // empty: clients need no certificate
  int64_t expires = 0;    // the certificate; in seconds of Unix time
  bool operator==(const Certificates&) const = default;
};

// The files of `tls`, read again when one of them has changed. Where they then cannot be read, do not fit
// together or have expired, the old ones stay in use, with an error in the log and in the metrics: it may be
// that only the first of two has been replaced yet. Thread-safe.
class CertificateFiles {
 public:
  // INVALID_ARGUMENT with what is wrong with them. `probe` outlives it.
  [[nodiscard]] static Result<std::unique_ptr<CertificateFiles>> open(const v1::Tls& tls,
                                                                      SecurityProbe& probe);

  [[nodiscard]] std::shared_ptr<const Certificates> current() { return files_.current(); }
  // Whether clients who connect to this host ("n1", "10.0.0.7") will find it in the certificate.
  [[nodiscard]] bool covers(const std::string& host);

 private:
  CertificateFiles(const v1::Tls& tls, SecurityProbe& probe);
  [[nodiscard]] Result<std::shared_ptr<const Certificates>> read() const;

  const v1::Tls tls_;
  SecurityProbe& probe_;
  RereadFiles<Certificates> files_;
};

}  // namespace emoe::server
