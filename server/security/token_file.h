#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "server/security/file_stamp.h"
#include "server/security/principal.h"
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
  [[nodiscard]] std::shared_ptr<const Principals> current();

  const std::filesystem::path file_;
  const std::vector<std::string> coordinator_roots_;
  SecurityProbe& probe_;
  std::mutex mutex_;
  std::shared_ptr<const Principals> principals_;
  std::optional<FileStamp> seen_;        // what was read, or tried; nothing: it is to be read again
  std::optional<FileStamp> complained_;  // of which the log says that it cannot be used
};

}  // namespace emoe::server
