#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"

namespace emoe::launcher {

// A text that stands in a configuration, or in a file that may change.
struct TextSource {
  std::string text;
  std::filesystem::path file;  // where `text` is empty

  [[nodiscard]] bool given() const { return !text.empty() || !file.empty(); }
  // "" where nothing is given; the file's errors. Without the line break at its end.
  [[nodiscard]] Result<std::string> read() const;
  // For messages: "the token in /var/…/token".
  [[nodiscard]] std::string named(const std::string& what) const;
};

// Where a cluster's API server is, who vouches for it, and as whom we speak to it.
struct ClusterAccess {
  std::string server;  // "https://10.96.0.1:443", without a slash at its end
  std::string cluster_namespace;
  TextSource ca;  // PEM; not given: the system's
  TextSource certificate;
  TextSource key;
  TextSource token;
  std::string proxy;  // http://…; empty: none, whatever the environment says
};

struct AccessOptions {
  std::string server;
  std::filesystem::path ca_file;
  std::filesystem::path token_file;
  std::filesystem::path kubeconfig;
  std::string context;
  std::string cluster_namespace;
  // What Kubernetes puts into every pod that mounts its service account.
  std::filesystem::path service_account = "/var/run/secrets/kubernetes.io/serviceaccount";
};

// By server, ca_file and token_file where the server is given; else by the kubeconfig; else, inside a
// cluster, by the pod's service account. INVALID_ARGUMENT where none of it is there, for a server
// that is not https, and for what a kubeconfig asks that is not supported, by name. The errors of
// files.
[[nodiscard]] Result<ClusterAccess> find_access(const AccessOptions& options);

// The part of find_access() that is about kubeconfig files.
[[nodiscard]] Result<ClusterAccess> read_kubeconfig(const std::filesystem::path& file,
                                                    const std::string& context);

}  // namespace emoe::launcher
