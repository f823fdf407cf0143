#include "worker/run/rank_agreement.h"

#include <array>

#include <absl/strings/str_cat.h>

#include "base/sha256.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

constexpr size_t kDigestBytes = 64;

}  // namespace

void check_same_preparation(const Preparation& mine, const std::string& host_name,
                            HostGroup& host) {
  std::string record;  // a digest of each hash: hashes may be empty
  for (const auto& [what, hash] : mine) record += sha256_hex(hash);
  const auto hosts = host.all_gather(host_name);
  const auto records = host.all_gather(record);
  for (size_t rank = 1; rank < records.size(); ++rank) {
    for (size_t i = 0; i < mine.size(); ++i) {
      const size_t at = i * kDigestBytes;
      if (records[rank].compare(at, kDigestBytes, records[0], at, kDigestBytes) == 0) continue;
      throw JobError(
          ExitCode::data,
          absl::StrCat("rank ", rank, " on host ", hosts[rank], " has another ", mine[i].first,
                       " than rank 0 on host ", hosts[0], ": all hosts must see the same files"));
    }
  }
}

bool on_any_rank(bool mine, HostGroup& host) {
  std::array<double, 1> flag = {mine ? 1.0 : 0.0};
  host.max(flag);
  return flag[0] > 0;
}

}  // namespace emoe::worker
