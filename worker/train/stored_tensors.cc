#include "worker/train/stored_tensors.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ATen.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

namespace emoe::worker {
namespace {

struct PieceName {
  std::string name;
  int64_t begin = 0;
};

// Nothing for a tensor that is whole.
std::optional<PieceName> parse(const std::string& stored) {
  const size_t bracket = stored.rfind('[');
  if (bracket == std::string::npos || stored.back() != ']') return std::nullopt;
  const std::string range = stored.substr(bracket + 1, stored.size() - bracket - 2);
  const std::vector<std::string> ends = absl::StrSplit(range, ':');
  PieceName piece{.name = stored.substr(0, bracket)};
  if (ends.size() != 2 || !absl::SimpleAtoi(ends[0], &piece.begin)) return std::nullopt;
  return piece;
}

}  // namespace

std::string piece_name(const std::string& name, int64_t begin, int64_t end) {
  return absl::StrCat(name, "[", begin, ":", end, "]");
}

StoredTensors::StoredTensors(const TensorMap& stored) {
  for (const auto& [name, tensor] : stored) {
    if (const auto piece = parse(name)) {
      tensors_[piece->name].pieces[piece->begin] = tensor.flatten();
    } else {
      tensors_[name] = {.shape = tensor.sizes().vec(), .pieces = {{0, tensor.flatten()}}};
    }
  }
}

std::optional<at::Tensor> StoredTensors::elements(const std::string& name, int64_t begin,
                                                  int64_t end) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  std::vector<at::Tensor> parts;
  int64_t next = begin;
  for (const auto& [at, piece] : found->second.pieces) {
    const int64_t last = std::min(end, at + piece.numel());
    if (last <= next || at > next) continue;
    parts.push_back(piece.narrow(0, next - at, last - next));
    next = last;
  }
  if (next != end) return std::nullopt;
  if (parts.empty()) return at::empty({0}, at::kFloat);
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

std::optional<at::Tensor> StoredTensors::whole(const std::string& name,
                                               const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  const Stored& stored = found->second;
  if (stored.shape && *stored.shape != shape) return std::nullopt;
  const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  const auto& [last, piece] = *stored.pieces.rbegin();
  if (last + piece.numel() != size) return std::nullopt;
  const auto flat = elements(name, 0, size);
  return flat ? std::optional(flat->view(shape)) : std::nullopt;
}

}  // namespace emoe::worker
