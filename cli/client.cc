#include "cli/client.h"

#include <algorithm>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "base/diagnostics.h"
#include "base/file.h"

namespace emoe::cli {
namespace {

constexpr size_t kLargestFile = 4 << 20;

// Empty where it cannot be read: check_files() has said so.
std::string pem_of(const std::string& file) {
  if (file.empty()) return "";
  return read_file(file, kLargestFile).value_or("");
}

std::shared_ptr<grpc::ChannelCredentials> credentials_of(const Client::Options& options) {
  if (options.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = pem_of(options.tls_ca),
                               .pem_private_key = pem_of(options.tls_key),
                               .pem_cert_chain = pem_of(options.tls_certificate)});
}

Result<std::string> read_token(const std::string& file) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(file, kLargestFile));
  const std::string token(absl::StripAsciiWhitespace(text));
  const bool is_one_word = std::ranges::all_of(token, [](char c) { return c >= '!' && c <= '~'; });
  if (token.empty() || !is_one_word) {
    return absl::InvalidArgumentError(file +
                                      " holds no token: one line of printable ASCII is wanted");
  }
  return token;
}

}  // namespace

Status Client::check_files(const Options& options) {
  Diagnostics problems;
  const auto check = [&](const char* option, const std::string& file, const char* content) {
    if (file.empty()) return;
    const auto text = read_file(file, kLargestFile);
    if (!text.ok()) return problems.add(option, std::string(text.status().message()));
    const size_t begin = text->find("-----BEGIN ");
    if (begin == std::string::npos) {
      problems.add(option, absl::StrCat(file, " is no PEM file"));
    } else if (text->find(content, begin) == std::string::npos) {
      problems.add(option, absl::StrCat(file, " has no ", absl::AsciiStrToLower(content)));
    }
  };
  check("--tls-ca", options.tls_ca, "CERTIFICATE");
  check("--tls-cert", options.tls_certificate, "CERTIFICATE");
  check("--tls-key", options.tls_key, "PRIVATE KEY");
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    problems.add(options.tls_key.empty() ? "--tls-key" : "--tls-cert",
                 "is missing: a certificate and its key belong together");
  }
  if (options.tls_ca.empty() && !options.tls_certificate.empty()) {
    problems.add("--tls-ca", "is missing: without it there is no TLS, and no certificate is shown");
  }
  if (!options.token_file.empty()) {
    const auto token = read_token(options.token_file);
    if (!token.ok()) problems.add("--token-file", std::string(token.status().message()));
  }
  return problems.to_status();
}

grpc::Status Client::authorize(grpc::ClientContext& context) const {
  if (options_.token_file.empty()) return grpc::Status::OK;
  const auto token = read_token(options_.token_file);
  if (!token.ok()) {
    return {grpc::StatusCode::UNAUTHENTICATED, "token: " + std::string(token.status().message())};
  }
  context.AddMetadata("authorization", "Bearer " + *token);
  return grpc::Status::OK;
}

Client::Client(Options options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A coordinator that restarts is back within seconds; a silent one is noticed within a minute.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, options_.proxy ? 1 : 0);
  channel_ = grpc::CreateCustomChannel(options_.server, credentials_of(options_), arguments);
  stub_ = v1::FineTuning::NewStub(channel_);
}

grpc::Status Client::get_job(const std::string& id, v1::Job& job) {
  v1::GetJobRequest request;
  request.set_id(id);
  return call(&v1::FineTuning::Stub::GetJob, request, job);
}

}  // namespace emoe::cli
