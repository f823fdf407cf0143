#include "worker/run/rank_agreement.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "base/sha256.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

constexpr size_t kHostBytes = 256;
constexpr size_t kDigestBytes = 64;

// A record of the same size on every rank: the host's name, then a digest of each hash, since hashes
// may be empty.
std::string record_of(const Preparation& mine, const std::string& host) {
  std::string record = host.substr(0, kHostBytes);
  record.resize(kHostBytes, '\0');
  for (const auto& [what, hash] : mine) record += sha256_hex(hash);
  return record;
}

}  // namespace

void check_same_preparation(const Preparation& mine, const std::string& host, Communicator& comm) {
  const std::string record = record_of(mine, host);
  std::string all(record.size() * static_cast<size_t>(comm.world_size()), '\0');
  comm.all_gather(std::as_bytes(std::span(record.data(), record.size())),
                  std::as_writable_bytes(std::span(all.data(), all.size())));
  for (size_t rank = 1; rank < static_cast<size_t>(comm.world_size()); ++rank) {
    const std::string other = all.substr(rank * record.size(), record.size());
    for (size_t i = 0; i < mine.size(); ++i) {
      const size_t at = kHostBytes + i * kDigestBytes;
      if (other.compare(at, kDigestBytes, all, at, kDigestBytes) == 0) continue;
      throw JobError(ExitCode::data,
                     absl::StrCat("rank ", rank, " on host ", other.c_str(), " has another ",
                                  mine[i].first, " than rank 0 on host ", all.c_str(),
                                  ": all hosts must see the same files"));
    }
  }
}

bool on_any_rank(bool mine, Communicator& comm) {
  std::array<double, 1> flag = {mine ? 1.0 : 0.0};
  comm.all_reduce_max(flag);
  return flag[0] > 0;
}

}  // namespace emoe::worker
