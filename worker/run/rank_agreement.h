#pragma once

#include <string>
#include <utility>
#include <vector>

#include "worker/comm/host_group.h"

namespace emoe::worker {

// What a rank prepared by itself: (what it is, its hash), the same list of things on every rank.
using Preparation = std::vector<std::pair<std::string, std::string>>;

// Ranks read their files each for itself, on hosts of which one may see an old copy. Throws JobError
// 65 on every rank alike, naming the first rank and its host whose preparation is not rank 0's and
// what differs. Collective.
void check_same_preparation(const Preparation& mine, const std::string& host_name, HostGroup& host);

// Whether this holds on at least one rank. Collective.
[[nodiscard]] bool on_any_rank(bool mine, HostGroup& host);

}  // namespace emoe::worker
