#include "worker/comm/host_group.h"

#include <algorithm>

namespace emoe::worker {
namespace {

class SingleRank final : public Transport {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int world_size() const override { return 1; }
  void all_reduce(CollectiveKind, void*, size_t, Number) override {}
  void reduce_scatter(const void* in, void* out, size_t count, Number number) override {
    std::copy_n(static_cast<const std::byte*>(in), count * size_of(number),
                static_cast<std::byte*>(out));
  }
  void broadcast(std::span<std::byte>, int) override {}
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    std::copy(mine.begin(), mine.end(), all.begin());
  }
  void barrier() override {}
  [[nodiscard]] std::shared_ptr<Transport> split(int, int) override {
    return std::make_shared<SingleRank>();
  }
};

std::span<std::byte> bytes_of(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}

}  // namespace

std::string HostGroup::broadcast(std::string text, int root) {
  CountedCollective counted(counters_, CollectiveKind::broadcast);
  auto size = static_cast<uint64_t>(text.size());
  transport_->broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  text.resize(size);
  transport_->broadcast(bytes_of(text), root);
  counted.done(text.size());
  return text;
}

std::vector<std::string> HostGroup::all_gather(std::string_view mine) {
  CountedCollective counted(counters_, CollectiveKind::all_gather);
  const auto size = static_cast<uint64_t>(mine.size());
  std::vector<uint64_t> sizes(static_cast<size_t>(world_size()));
  transport_->all_gather(std::as_bytes(std::span(&size, 1)),
                         std::as_writable_bytes(std::span(sizes)));
  const size_t longest = *std::max_element(sizes.begin(), sizes.end());
  std::string padded(mine);
  padded.resize(longest);
  std::string all(longest * sizes.size(), '\0');
  transport_->all_gather(bytes_of(padded), bytes_of(all));
  std::vector<std::string> texts;
  for (size_t r = 0; r < sizes.size(); ++r) texts.push_back(all.substr(r * longest, sizes[r]));
  counted.done(all.size());
  return texts;
}

void HostGroup::reduce(CollectiveKind kind, std::span<double> values) {
  CountedCollective counted(counters_, kind);
  transport_->all_reduce(kind, values.data(), values.size(), Number::float64);
  counted.done(values.size_bytes());
}

bool HostGroup::any(bool mine) {
  double flag = mine ? 1.0 : 0.0;
  max({&flag, 1});
  return flag > 0.0;
}

void HostGroup::barrier() {
  CountedCollective counted(counters_, CollectiveKind::barrier);
  transport_->barrier();
  counted.done(0);
}

std::unique_ptr<HostGroup> HostGroup::split(int color, int key) {
  CountedCollective counted(counters_, CollectiveKind::split);
  auto part = std::make_unique<HostGroup>(transport_->split(color, key), counters_);
  counted.done(0);
  return part;
}

std::unique_ptr<HostGroup> make_single_rank_group(std::shared_ptr<CollectiveCounters> counters) {
  return std::make_unique<HostGroup>(std::make_shared<SingleRank>(), std::move(counters));
}

}  // namespace emoe::worker
