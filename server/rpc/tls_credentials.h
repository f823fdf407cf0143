#pragma once

#include <memory>

#include <grpcpp/security/server_credentials.h>

#include "server/security/certificate_files.h"

namespace emoe::server {

// TLS 1.2 or newer with the files' current certificates: each handshake asks for them, so what was replaced on
// disk is used from the next connection on, and open connections go on. With a client_ca, only clients
// with a certificate of it get in. Its holder keeps it, and `files`, as long as the server.
[[nodiscard]] std::shared_ptr<grpc::ServerCredentials> tls_credentials(CertificateFiles& files);

}  // namespace emoe::server
