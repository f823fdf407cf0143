#include "server/scheduler/free_resources.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace emoe::server {
namespace {

using launcher::HostRanks;
using launcher::Resources;

constexpr Amount kAmounts[] = {{&Resources::cpus, "slot"}, {&Resources::gpus, "GPU"}};

}  // namespace

const Amount& scarce_amount(const Resources& needs, const Resources& available) {
  for (const Amount& amount : kAmounts) {
    if (needs.*amount.of > available.*amount.of) return amount;
  }
  return kAmounts[0];
}

int FreeResources::Host::room(bool with_gpus) const {
  return with_gpus ? std::min(slots, static_cast<int>(gpus.size())) : slots;
}

FreeResources::FreeResources(const Pool& pool, const std::vector<RunningJob>& running)
    : amounts_(pool.total) {
  for (const Pool::Host& host : pool.hosts) {
    Host& added = hosts_.emplace_back(Host{host.name, host.slots, {}});
    added.gpus.resize(static_cast<size_t>(host.gpus));
    std::iota(added.gpus.begin(), added.gpus.end(), 0);
  }
  for (const RunningJob& job : running) give_out(job);
  count();
}

void FreeResources::give_out(const RunningJob& job) {
  if (hosts_.empty()) {
    for (const Amount& amount : kAmounts) {
      amounts_.*amount.of = std::max<int64_t>(amounts_.*amount.of - job.holds.*amount.of, 0);
    }
    return;
  }
  for (const HostRanks& part : job.placement) {
    for (Host& host : hosts_) {  // none where the host is out of service
      if (host.name != part.host) continue;
      host.slots = std::max(host.slots - part.ranks, 0);
      std::erase_if(host.gpus, [&](int gpu) { return std::ranges::count(part.gpus, gpu) > 0; });
    }
  }
}

void FreeResources::count() {
  if (hosts_.empty()) return;
  amounts_.cpus = amounts_.gpus = 0;
  for (const Host& host : hosts_) {
    amounts_.cpus += host.slots;
    amounts_.gpus += static_cast<int64_t>(host.gpus.size());
  }
}

int FreeResources::ranks(bool gpus) const {
  if (hosts_.empty()) {
    const int64_t room = gpus ? std::min(amounts_.cpus, amounts_.gpus) : amounts_.cpus;
    return static_cast<int>(std::min<int64_t>(room, std::numeric_limits<int>::max()));
  }
  int room = 0;
  for (const Host& host : hosts_) room += host.room(gpus);
  return room;
}

int FreeResources::slots_of(const std::string& host) const {
  const auto found = std::ranges::find(hosts_, host, &Host::name);
  return found == hosts_.end() ? 0 : found->slots;
}

FreeResources::Host* FreeResources::best_host(int ranks, bool gpus) {
  Host* fullest = nullptr;  // that has room for all
  Host* emptiest = nullptr;
  for (Host& host : hosts_) {
    const int room = host.room(gpus);
    if (room >= ranks && (fullest == nullptr || room < fullest->room(gpus))) fullest = &host;
    if (emptiest == nullptr || room > emptiest->room(gpus)) emptiest = &host;
  }
  return fullest != nullptr ? fullest : emptiest;
}

std::vector<HostRanks> FreeResources::take(int ranks, bool gpus) {
  std::vector<HostRanks> placement;
  if (hosts_.empty()) {
    give_out({.id = "", .holds = resources_of(ranks, gpus), .placement = {}});
    return placement;
  }
  while (ranks > 0) {
    Host& host = *best_host(ranks, gpus);
    HostRanks& part =
        placement.emplace_back(HostRanks{host.name, std::min(ranks, host.room(gpus)), {}});
    EMOE_CHECK(part.ranks > 0);
    if (gpus) part.gpus.assign(host.gpus.begin(), host.gpus.begin() + part.ranks);
    ranks -= part.ranks;
    give_out({.id = "", .holds = {}, .placement = {part}});
  }
  count();
  return placement;
}

}  // namespace emoe::server
