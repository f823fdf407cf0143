#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "server/security/principal.h"
#include "server/security/reread_files.h"
#include "server/security/security_probe.h"

namespace emoe::server {

// The file of tokens (v1::TokenFile), which holds their digests only. It is looked at in every call and read
// again when it has changed, so that a token counts, or counts no more, from the next call on. A changed
// file that cannot be used leaves the old tokens in force, with an error in the log and in the metrics.
// Thread-safe.
class TokenFile {
 public:
  // The configuration's errors; also of a file that everybody may write, or whose roots lie outside
  // `coordinator_roots` (where there are some). `probe` outlives it.
  [[nodiscard]] static Result<std::unique_ptr<TokenFile>> open(
      std::filesystem::path file, std::vector<std::string> coordinator_roots, SecurityProbe& probe);

  // Whose token it is; nothing where it is nobody's.
  [[nodiscard]] std::optional<Principal> find(std::string_view token);

 private:
  using Principals = std::unordered_map<std::string, Principal>;  // by digest
  TokenFile(std::filesystem::path file, std::vector<std::string> roots, SecurityProbe& probe);
  [[nodiscard]] Result<std::shared_ptr<const Principals>> read() const;

  const std::filesystem::path file_;
  const std::vector<std::string> coordinator_roots_;
  SecurityProbe& probe_;
  RereadFiles<Principals> tokens_;
};

}  // namespace emoe::server
