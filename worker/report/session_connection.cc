#include "worker/report/session_connection.h"

#include <fstream>
#include <iterator>
#include <string>

#include <grpcpp/grpcpp.h>

#include "base/log.h"

namespace emoe::worker {
namespace {

// What cannot be read is missing in the handshake, which then fails: the next connection tries again. These
// are no files of a job, for which restrict_reads() holds.
std::string pem_of(const std::filesystem::path& file) {
  if (file.empty()) return "";
  std::ifstream stream(file, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (text.empty()) log_warning("TLS: cannot read %s", file.string());
  return text;
}

std::shared_ptr<grpc::ChannelCredentials> credentials_of(const SessionClient::Config& config) {
  if (config.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = pem_of(config.tls_ca);
  // None at all would be the system's, which know nothing of this coordinator.
  if (options.pem_root_certs.empty()) options.pem_root_certs = "none";
  options.pem_cert_chain = pem_of(config.tls_certificate);
  options.pem_private_key = pem_of(config.tls_key);
  return grpc::SslCredentials(options);
}

}  // namespace

std::shared_ptr<grpc::Channel> session_channel(const SessionClient::Config& config) {
  grpc::ChannelArguments arguments;
  // With keepalive on, gRPC also sets TCP_USER_TIMEOUT to the timeout below, which finds a dead
  // host through our own heartbeats; its pings are kept rarer than servers by default accept.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 310'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // Each connection is a new one, with our own pauses between them.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy of the environment is for the outside world.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(config.address, credentials_of(config), arguments);
}

}  // namespace emoe::worker
