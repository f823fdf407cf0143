#include "worker/tensor/dtype.h"

#include <array>
#include <limits>
#include <string_view>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

struct Dtype {
  std::string_view name;
  at::ScalarType type;
  uint64_t bytes;
};

constexpr std::array<Dtype, 16> kDtypes{{
    {"F32", at::kFloat, 4},
    {"BF16", at::kBFloat16, 2},
    {"F16", at::kHalf, 2},
    {"F64", at::kDouble, 8},
    {"I64", at::kLong, 8},
    {"I32", at::kInt, 4},
    {"I16", at::kShort, 2},
    {"I8", at::kChar, 1},
    {"U8", at::kByte, 1},
    {"U16", at::kUInt16, 2},
    {"U32", at::kUInt32, 4},
    {"U64", at::kUInt64, 8},
    {"BOOL", at::kBool, 1},
    {"C64", at::kComplexFloat, 8},
    {"F8_E4M3", at::kFloat8_e4m3fn, 1},
    {"F8_E5M2", at::kFloat8_e5m2, 1},
}};

const Dtype* find(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.name == name) return &dtype;
  }
  return nullptr;
}

Status unknown(const std::string& dtype) {
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype \"", dtype, "\""));
}

}  // namespace

std::optional<uint64_t> bytes_of_dtype(const std::string& dtype) {
  const Dtype* found = find(dtype);
  return found == nullptr ? std::nullopt : std::optional(found->bytes);
}

Result<uint64_t> bytes_of_tensor(const std::string& dtype, const std::vector<int64_t>& shape) {
  const Dtype* found = find(dtype);
  if (found == nullptr) return unknown(dtype);
  auto bytes = static_cast<int64_t>(found->bytes);
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0)
      return absl::InvalidArgumentError(absl::StrCat("negative size in ", shape_text(shape)));
    empty = empty || size == 0;
  }
  if (empty) return uint64_t{0};
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", shape_text(shape), " has more bytes than 63 bits can count"));
    }
  }
  return static_cast<uint64_t>(bytes);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

Result<at::ScalarType> scalar_type_of(const std::string& dtype) {
  const Dtype* found = find(dtype);
  if (found == nullptr) return unknown(dtype);
  return found->type;
}

std::string dtype_name(at::ScalarType type) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.type == type) return std::string(dtype.name);
  }
  return c10::toString(type);
}

}  // namespace emoe::worker
