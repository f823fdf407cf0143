#include "worker/tensor/dtype.h"

#include <array>
#include <string_view>

#include <absl/strings/str_cat.h>

namespace emoe::worker {
namespace {

struct Dtype {
  std::string_view name;  // in a safetensors file; format/dtype.cc knows the same ones
  at::ScalarType type;
};

constexpr std::array<Dtype, 16> kDtypes{{
    {"F32", at::kFloat},
    {"BF16", at::kBFloat16},
    {"F16", at::kHalf},
    {"F64", at::kDouble},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"U16", at::kUInt16},
    {"U32", at::kUInt32},
    {"U64", at::kUInt64},
    {"BOOL", at::kBool},
    {"C64", at::kComplexFloat},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
}};

}  // namespace

Result<at::ScalarType> scalar_type_of(const std::string& dtype) {
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) return known.type;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype \"", dtype, "\""));
}

std::string dtype_name(at::ScalarType type) {
  for (const Dtype& known : kDtypes) {
    if (known.type == type) return std::string(known.name);
  }
  return c10::toString(type);
}

}  // namespace emoe::worker
