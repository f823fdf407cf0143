#include "server/security/security_config.h"

#include <set>

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "base/file.h"

namespace emoe::server {
namespace {

constexpr char kAllowInsecure[] =
    "give both, or say allow_insecure: true where only people you trust can reach it";

void check_listen(const v1::CoordinatorConfig& config, Diagnostics& problems) {
  if (config.allow_insecure()) return;
  const bool tls = !config.tls().certificate().empty();
  const bool auth = !config.auth().tokens().empty();
  if (!is_loopback(config.listen()) && !(tls && auth)) {
    problems.add("listen",
                 absl::StrCat("'", config.listen(), "' is reached from other hosts, and there is ",
                              tls    ? "no authentication (auth.tokens)"
                              : auth ? "no TLS (tls.certificate)"
                                     : "neither TLS (tls.certificate) nor authentication "
                                       "(auth.tokens)",
                              ": ", kAllowInsecure));
  }
  // With a certificate, tls.metrics: false says it in so many words.
  if (!is_loopback(config.metrics_listen()) && !tls) {
    problems.add(
        "metrics_listen",
        absl::StrCat("'", config.metrics_listen(),
                     "' is reached from other hosts, and there is no TLS (tls.certificate): "
                     "give a certificate, or say allow_insecure: true"));
  }
}

void check_pairs(const v1::Tls& tls, Diagnostics& problems) {
  const auto pair = [&](const char* a, const std::string& first, const char* b,
                        const std::string& second) {
    if (first.empty() == second.empty()) return;
    problems.add(first.empty() ? a : b,
                 absl::StrCat("is missing: ", first.empty() ? b : a, " is given"));
  };
  pair("tls.certificate", tls.certificate(), "tls.key", tls.key());
  pair("tls.ranks_certificate", tls.ranks_certificate(), "tls.ranks_key", tls.ranks_key());
  if (tls.certificate().empty() && !tls.client_ca().empty()) {
    problems.add("tls.client_ca", "has no effect without tls.certificate and tls.key");
  }
  if (!tls.client_ca().empty() && tls.ranks_certificate().empty()) {
    problems.add(
        "tls.ranks_certificate",
        "is required with tls.client_ca: ranks are clients too, and need a certificate of it "
        "(with tls.ranks_key)");
  }
}

}  // namespace

std::string host_of(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  return host.starts_with('[') && host.ends_with(']') ? host.substr(1, host.size() - 2) : host;
}

bool is_loopback(const std::string& listen) {
  if (listen.starts_with("unix:")) return true;
  const std::string host = host_of(listen);
  const bool is_number = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "localhost" || host == "::1" || (is_number && host.starts_with("127."));
}

Status check_security(const v1::CoordinatorConfig& config) {
  Diagnostics problems;
  check_listen(config, problems);
  check_pairs(config.tls(), problems);
  std::set<std::string> projects;
  for (int i = 0; i < config.auth().quotas_size(); ++i) {
    const std::string& project = config.auth().quotas(i).project();
    if (projects.insert(project).second) continue;
    problems.add(absl::StrCat("auth.quotas[", i, "].project"),
                 absl::StrCat("\"", project, "\" is given twice"));
  }
  for (int i = 0; i < config.allowed_roots_size(); ++i) {
    // Ranks get the roots as a list with colons between them.
    if (config.allowed_roots(i).find(':') == std::string::npos) continue;
    problems.add(absl::StrCat("allowed_roots[", i, "]"), "must not have a \":\" in it");
  }
  return problems.to_status();
}

void fill_in_security_paths(v1::CoordinatorConfig& config) {
  v1::Tls& tls = *config.mutable_tls();
  v1::Auth& auth = *config.mutable_auth();
  for (std::string* path : {tls.mutable_certificate(), tls.mutable_key(), tls.mutable_client_ca(),
                            tls.mutable_ranks_ca(), tls.mutable_ranks_certificate(),
                            tls.mutable_ranks_key(), auth.mutable_tokens(), auth.mutable_audit()}) {
    if (!path->empty()) *path = absolute_path(*path).string();
  }
  if (auth.audit().empty()) auth.set_audit(config.state_dir() + "/audit.jsonl");
  if (tls.ranks_ca().empty()) tls.set_ranks_ca(tls.certificate());
}

}  // namespace emoe::server
