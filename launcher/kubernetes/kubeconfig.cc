#include <array>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "launcher/kubernetes/cluster_access.h"

namespace emoe::launcher {
namespace {

constexpr size_t kMostBytesOfKubeconfig = 16 << 20;

std::string text_at(const YAML::Node& node, const char* key) {
  if (!node.IsMap() || !node[key] || !node[key].IsScalar()) return "";
  return node[key].Scalar();
}

// One file of contexts, clusters and users, as kubectl reads it.
class Kubeconfig {
 public:
  Kubeconfig(YAML::Node root, std::filesystem::path file)
      : root_(std::move(root)), file_(std::move(file)) {}

  Result<ClusterAccess> access(std::string context) const {
    if (context.empty()) context = text_at(root_, "current-context");
    if (context.empty()) return refused("it has no current-context, and none was chosen");
    EMOE_ASSIGN_OR_RETURN(const YAML::Node chosen, entry("contexts", "context", context));
    EMOE_ASSIGN_OR_RETURN(const YAML::Node cluster,
                          entry("clusters", "cluster", text_at(chosen, "cluster")));
    EMOE_ASSIGN_OR_RETURN(const YAML::Node user, entry("users", "user", text_at(chosen, "user")));
    EMOE_RETURN_IF_ERROR(check_supported(cluster, user));
    ClusterAccess access;
    access.server = text_at(cluster, "server");
    access.cluster_namespace = text_at(chosen, "namespace");
    access.proxy = text_at(cluster, "proxy-url");
    EMOE_ASSIGN_OR_RETURN(access.ca, source(cluster, "certificate-authority"));
    EMOE_ASSIGN_OR_RETURN(access.certificate, source(user, "client-certificate"));
    EMOE_ASSIGN_OR_RETURN(access.key, source(user, "client-key"));
    // kubectl heeds the file first, because it may be renewed.
    access.token.file = below_file(text_at(user, "tokenFile"));
    if (access.token.file.empty()) access.token.text = text_at(user, "token");
    return access;
  }

 private:
  Status refused(const std::string& why) const {
    return absl::InvalidArgumentError(
        absl::StrCat("launcher.kubernetes.kubeconfig: ", file_.string(), ": ", why));
  }

  Result<YAML::Node> entry(const char* list, const char* kind, const std::string& name) const {
    if (root_[list] && root_[list].IsSequence()) {
      for (const YAML::Node& one : root_[list]) {
        if (text_at(one, "name") == name && one[kind]) return one[kind];
      }
    }
    return refused(absl::StrCat("no ", kind, " \"", name, "\" in ", list));
  }

  // Left out, these would make us another user, or trust another server, than the file means.
  Status check_supported(const YAML::Node& cluster, const YAML::Node& user) const {
    if (text_at(cluster, "insecure-skip-tls-verify") == "true") {
      return refused(
          "insecure-skip-tls-verify: the server's certificate is always verified; name its CA");
    }
    constexpr std::array kOfCluster{"tls-server-name"};
    constexpr std::array kOfUser{"exec", "auth-provider", "username", "as", "as-groups", "as-uid"};
    for (const char* key : kOfCluster) {
      if (cluster[key]) return refused(absl::StrCat(key, " is not supported"));
    }
    for (const char* key : kOfUser) {
      if (user[key]) {
        return refused(absl::StrCat(key,
                                    " is not supported; use a token, a tokenFile or a client "
                                    "certificate (a service account's)"));
      }
    }
    return ok_status();
  }

  // The text in KEY-data, in base64, or the file that KEY names.
  Result<TextSource> source(const YAML::Node& node, const std::string& key) const {
    TextSource found;
    const std::string data = text_at(node, (key + "-data").c_str());
    if (!data.empty() && (!absl::Base64Unescape(data, &found.text) || found.text.empty())) {
      return refused(key + "-data is no base64");
    }
    if (data.empty()) found.file = below_file(text_at(node, key.c_str()));
    return found;
  }

  // Relative to the kubeconfig, as kubectl has it.
  std::filesystem::path below_file(const std::string& path) const {
    return path.empty() ? std::filesystem::path() : absolute_path(path, file_.parent_path());
  }

  YAML::Node root_;
  std::filesystem::path file_;
};

}  // namespace

Result<ClusterAccess> read_kubeconfig(const std::filesystem::path& file,
                                      const std::string& context) {
  const auto text = read_file(file, kMostBytesOfKubeconfig);
  if (!text.ok()) return with_context(text.status(), "launcher.kubernetes.kubeconfig");
  try {
    const YAML::Node root = YAML::Load(*text);
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat("launcher.kubernetes.kubeconfig: ", file.string(), " is no kubeconfig"));
    }
    return Kubeconfig(root, absolute_path(file)).access(context);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("launcher.kubernetes.kubeconfig: ", file.string(), ": ", error.what()));
  }
}

}  // namespace emoe::launcher
