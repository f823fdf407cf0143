#include "server/security/token_file.h"

#include <cerrno>

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include "base/diagnostics.h"
#include "base/input_file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "config/config.h"
#include "server/job/path_check.h"

namespace emoe::server {
namespace {

constexpr size_t kLargestTokenFile = 64 << 20;

Role role_of(const std::string& name) {
  return name == "admin" ? Role::admin : name == "user" ? Role::user : Role::viewer;
}

// Whoever can write it makes tokens. (Digests are no secrets: it may be read.)
Status check_permissions(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return errno_status(errno, file.string());
  if ((info.st_mode & S_IWOTH) == 0) return ok_status();
  return absl::InvalidArgumentError(
      absl::StrCat(file.string(), ": everybody may write it; chmod 640 (or 600) it"));
}

}  // namespace

TokenFile::TokenFile(std::filesystem::path file, std::vector<std::string> roots,
                     SecurityProbe& probe)
    : file_(std::move(file)),
      coordinator_roots_(std::move(roots)),
      probe_(probe),
      tokens_({file_}, {.read = [this] { return read(); },
                        .taken =
                            [this](const Principals& fresh) {
                              log_info("%s: read again, %d tokens", file_.string(),
                                       static_cast<int>(fresh.size()));
                              probe_.reloaded("tokens", true);
                            },
                        .refused =
                            [this](const Status& why) {
                              probe_.reloaded("tokens", false);
                              log_error("the old tokens stay in force: %s",
                                        std::string(why.message()));
                            }}) {}

Result<std::unique_ptr<TokenFile>> TokenFile::open(std::filesystem::path file,
                                                   std::vector<std::string> coordinator_roots,
                                                   SecurityProbe& probe) {
  auto tokens = std::unique_ptr<TokenFile>(
      new TokenFile(std::move(file), std::move(coordinator_roots), probe));
  EMOE_RETURN_IF_ERROR(with_context(tokens->tokens_.open(), "auth.tokens"));
  return tokens;
}

Result<std::shared_ptr<const TokenFile::Principals>> TokenFile::read() const {
  EMOE_RETURN_IF_ERROR(check_permissions(file_));
  EMOE_ASSIGN_OR_RETURN(const std::string yaml,
                        read_input(file_, InputKind::text, kLargestTokenFile));
  EMOE_ASSIGN_OR_RETURN(const v1::TokenFile parsed, config::parse_token_file(yaml, file_.string()));
  const AllowedRoots allowed({coordinator_roots_.begin(), coordinator_roots_.end()});
  Diagnostics problems;
  auto principals = std::make_shared<Principals>();
  for (const v1::Token& token : parsed.tokens()) {
    const Principal principal{
        .name = token.name(),
        .role = role_of(token.role()),
        .project = token.project(),
        .allowed_roots = {token.allowed_roots().begin(), token.allowed_roots().end()}};
    for (const std::string& root : principal.allowed_roots) {
      const std::string key = absl::StrCat("token ", token.name(), ": allowed_roots");
      if (!std::filesystem::path(root).is_absolute() || root.find(':') != std::string::npos) {
        problems.add(key, absl::StrCat("'", root, "' is no absolute path without \":\""));
      } else if (!allowed.allow(root)) {
        problems.add(key,
                     absl::StrCat("'", root, "' lies outside the coordinator's allowed_roots"));
      }
    }
    principals->emplace(token.sha256(), principal);
  }
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return std::shared_ptr<const Principals>(std::move(principals));
}

std::optional<Principal> TokenFile::find(std::string_view token) {
  const auto principals = tokens_.current();
  // A digest can be looked up in variable time: whoever chooses tokens does not choose their digests.
  const auto found = principals->find(sha256_hex(token));
  if (found == principals->end()) return std::nullopt;
  return found->second;
}

}  // namespace emoe::server
