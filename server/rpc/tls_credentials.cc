#include "server/rpc/tls_credentials.h"

#include <mutex>
#include <string>

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

namespace emoe::server {
namespace {

// gRPC's C++ credentials have certificates that never change, or are watched as files without a look
// at whether they fit together; its C interface asks a function before each handshake.
class ReloadingCredentials final : public grpc::ServerCredentials {
 public:
  explicit ReloadingCredentials(CertificateFiles& files) : files_(files) {
    const auto request = files_.current()->client_ca.empty()
                             ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            request, &ReloadingCredentials::fetch, this));
  }
  ReloadingCredentials(const ReloadingCredentials&) = delete;
  ReloadingCredentials& operator=(const ReloadingCredentials&) = delete;
  ~ReloadingCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  static grpc_ssl_certificate_config_reload_status fetch(
      void* user_data, grpc_ssl_server_certificate_config** config) {
    auto& self = *static_cast<ReloadingCredentials*>(user_data);
    const auto now = self.files_.current();
    const std::lock_guard lock(self.mutex_);
    if (now == self.given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{now->key.c_str(), now->certificate.c_str()};
    // gRPC asserts that there are roots, also where it will not ask clients for certificates.
    const std::string& roots = now->client_ca.empty() ? now->certificate : now->client_ca;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    self.given_ = now;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  CertificateFiles& files_;
  grpc_server_credentials* credentials_ = nullptr;
  std::mutex mutex_;
  std::shared_ptr<const Certificates> given_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> tls_credentials(CertificateFiles& files) {
  return std::make_shared<ReloadingCredentials>(files);
}

}  // namespace emoe::server
