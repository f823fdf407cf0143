#include "launcher/kubernetes/cluster_access.h"

#include <cstdlib>

#include <absl/strings/str_cat.h>

#include "base/file.h"

namespace emoe::launcher {
namespace {

constexpr size_t kMostBytes = 1 << 20;  // of a certificate, key or token

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<ClusterAccess> access_in_cluster(const AccessOptions& options) {
  std::string host = variable("KUBERNETES_SERVICE_HOST");
  const std::string port = variable("KUBERNETES_SERVICE_PORT");
  std::error_code error;
  if (host.empty() || !std::filesystem::exists(options.service_account / "token", error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("launcher.kubernetes: no way to a cluster. Neither server nor kubeconfig is "
                     "set, and this is "
                     "no pod with a service account (",
                     host.empty() ? "KUBERNETES_SERVICE_HOST is not set"
                                  : "no token in " + options.service_account.string(),
                     ")"));
  }
  if (host.find(':') != std::string::npos) host = absl::StrCat("[", host, "]");
  ClusterAccess access;
  access.server = absl::StrCat("https://", host, ":", port.empty() ? "443" : port);
  access.ca.file = options.service_account / "ca.crt";
  access.token.file = options.service_account / "token";
  EMOE_ASSIGN_OR_RETURN(access.cluster_namespace,
                        (TextSource{"", options.service_account / "namespace"}.read()));
  return access;
}

Result<ClusterAccess> access_by_way(const AccessOptions& options) {
  if (options.server.empty()) {
    return options.kubeconfig.empty() ? access_in_cluster(options)
                                      : read_kubeconfig(options.kubeconfig, options.context);
  }
  if (!options.kubeconfig.empty()) {
    return absl::InvalidArgumentError(
        "launcher.kubernetes: server and kubeconfig are both set; one of them says where the "
        "cluster "
        "is");
  }
  ClusterAccess access;
  access.server = options.server;
  access.ca.file = options.ca_file;
  access.token.file = options.token_file;
  return access;
}

}  // namespace

Result<std::string> TextSource::read() const {
  if (!text.empty() || file.empty()) return text;
  EMOE_ASSIGN_OR_RETURN(std::string content, read_file(file, kMostBytes));
  content.erase(content.find_last_not_of(" \r\n") + 1);
  return content;
}

std::string TextSource::named(const std::string& what) const {
  return text.empty() ? absl::StrCat(what, " in ", file.string()) : what;
}

Result<ClusterAccess> find_access(const AccessOptions& options) {
  EMOE_ASSIGN_OR_RETURN(ClusterAccess access, access_by_way(options));
  while (access.server.ends_with('/')) access.server.pop_back();
  if (!access.server.starts_with("https://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("launcher.kubernetes: the API server \"", access.server,
                     "\" is not https://…: whoever stands between would read the token"));
  }
  if (!options.cluster_namespace.empty()) access.cluster_namespace = options.cluster_namespace;
  if (access.cluster_namespace.empty()) access.cluster_namespace = "default";
  for (const TextSource* source : {&access.ca, &access.certificate, &access.key, &access.token}) {
    const auto content = source->read();
    if (!content.ok()) return with_context(content.status(), "launcher.kubernetes");
  }
  if (!access.token.given() && !access.certificate.given()) {
    return absl::InvalidArgumentError(
        "launcher.kubernetes: neither a token (token_file) nor a client certificate: the API "
        "server "
        "would not know who asks");
  }
  return access;
}

}  // namespace emoe::launcher
