#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/comm/device_group.h"

namespace emoe::worker {

// Where the tensors of one unit lie, which are needed together (the linears of a layer): one after the
// other in a buffer of which each of `ranks` ranks keeps an equal part. Every tensor begins at a cache
// line, so that products give the bits that they give elsewhere.
class UnitLayout {
 public:
  UnitLayout(std::vector<std::vector<int64_t>> shapes, int ranks);

  [[nodiscard]] int64_t part() const { return part_; }  // elements a rank keeps, padding included
  [[nodiscard]] size_t tensors() const { return shapes_.size(); }
  // Tensor i of a whole unit [ranks * part].
  [[nodiscard]] at::Tensor view(const at::Tensor& whole, size_t i) const;

  // The elements [begin, end) of a flattened tensor, which lie in a part from `at` on.
  struct Piece {
    size_t tensor = 0;
    int64_t begin = 0;
    int64_t end = 0;
    int64_t at = 0;
  };
  // What a rank keeps, in the order of the tensors; those of which it keeps nothing are left out.
  [[nodiscard]] std::vector<Piece> pieces(int rank) const;

 private:
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<int64_t> offsets_;
  int64_t part_ = 0;
};

// Gathers units from the ranks of a group, and keeps the two used last. What a pass asks for in order
// (units 0, 1, 2 … forward, down again backward) is begun beside the unit before. Every rank must
// make the same calls. Calls throw CommunicationError.
class ShardedUnits {
 public:
  // This rank's part of a unit [part], in the dtype that travels.
  using Part = std::function<at::Tensor(int64_t unit)>;
  // The tensors that passes use, of the whole unit [ranks * part].
  using Unpack = std::function<std::vector<at::Tensor>(int64_t unit, const at::Tensor& whole)>;

  ShardedUnits(DeviceGroup& group, Part part, Unpack unpack)
      : group_(group), part_(std::move(part)), unpack_(std::move(unpack)) {}

  // They stay as long as they are held.
  [[nodiscard]] std::vector<at::Tensor> tensors(int64_t unit);
  // Whether the last unit that was asked for came before the one asked for before it: then a pass goes down, and
  // the unit before this one is on its way already.
  [[nodiscard]] bool goes_down() const { return goes_down_; }
  // `unit` is asked for next.
  void prefetch(int64_t unit);
  // The parts have other values from now on.
  void forget();

 private:
  struct Slot {
    int64_t unit = -1;
    int64_t used = 0;  // by the clock of calls
    at::Tensor whole;
    std::optional<Work> gather;  // in progress
    std::vector<at::Tensor> tensors;

    void clear();
  };
  [[nodiscard]] Slot* find(int64_t unit);
  Slot& begin(int64_t unit);
  void finish(Slot& slot);

  DeviceGroup& group_;
  Part part_;
  Unpack unpack_;
  std::array<Slot, 2> slots_;
  int64_t calls_ = 0;
  int64_t last_ = -1;
  bool goes_down_ = false;
};

}  // namespace emoe::worker
