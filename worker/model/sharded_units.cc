#include "worker/model/sharded_units.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>

namespace emoe::worker {
namespace {

constexpr int64_t kAlignment = 32;  // elements: a cache line of the narrowest dtype

int64_t aligned(int64_t elements) {
  return (elements + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t elements_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

UnitLayout::UnitLayout(std::vector<std::vector<int64_t>> shapes, int ranks)
    : shapes_(std::move(shapes)) {
  int64_t size = 0;
  for (const auto& shape : shapes_) {
    offsets_.push_back(size);
    size += aligned(elements_of(shape));
  }
  part_ = aligned((size + ranks - 1) / ranks);
}

at::Tensor UnitLayout::view(const at::Tensor& whole, size_t i) const {
  return whole.narrow(0, offsets_.at(i), elements_of(shapes_.at(i))).view(shapes_.at(i));
}

std::vector<UnitLayout::Piece> UnitLayout::pieces(int rank) const {
  const int64_t first = part_ * rank;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < shapes_.size(); ++i) {
    const int64_t begin = std::max(first, offsets_[i]);
    const int64_t end = std::min(first + part_, offsets_[i] + elements_of(shapes_[i]));
    if (begin >= end) continue;
    pieces.push_back({i, begin - offsets_[i], end - offsets_[i], begin - first});
  }
  return pieces;
}

void ShardedUnits::Slot::clear() {
  if (gather) gather->wait();  // begun for nothing
  gather.reset();
  unit = -1;
  used = 0;
  whole = at::Tensor();
  tensors.clear();
}

ShardedUnits::Slot* ShardedUnits::find(int64_t unit) {
  const auto found = std::ranges::find(slots_, unit, &Slot::unit);
  return found == slots_.end() ? nullptr : &*found;
}

ShardedUnits::Slot& ShardedUnits::begin(int64_t unit) {
  Slot& slot = *std::ranges::min_element(slots_, {}, &Slot::used);
  slot.clear();  // its memory serves the next one
  const at::Tensor part = part_(unit);
  slot.unit = unit;
  slot.used = ++calls_;
  slot.whole = at::empty({part.numel() * group_.world_size()}, part.options());
  slot.gather.emplace(group_.all_gather(part, slot.whole));
  return slot;
}

void ShardedUnits::finish(Slot& slot) {
  slot.used = ++calls_;
  if (!slot.gather) return;
  slot.gather->wait();
  slot.gather.reset();
  slot.tensors = unpack_(slot.unit, std::exchange(slot.whole, at::Tensor()));
}

std::vector<at::Tensor> ShardedUnits::tensors(int64_t unit) {
  Slot* found = find(unit);
  Slot& slot = found == nullptr ? begin(unit) : *found;
  finish(slot);
  std::vector<at::Tensor> tensors = slot.tensors;
  const bool downwards = unit == last_ - 1;
  if (unit != last_) goes_down_ = downwards;
  last_ = unit;
  if (downwards && unit > 0) prefetch(unit - 1);
  return tensors;
}

void ShardedUnits::prefetch(int64_t unit) {
  if (find(unit) == nullptr) (void)begin(unit);
}

void ShardedUnits::forget() {
  for (Slot& slot : slots_) slot.clear();
  last_ = -1;
  goes_down_ = false;
}

}  // namespace emoe::worker
