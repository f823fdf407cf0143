#include "format/dtype.h"

#include <array>
#include <string_view>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

namespace emoe {
namespace {

struct Dtype {
  std::string_view name;
  int64_t bytes;  // of one element
};

constexpr std::array<Dtype, 16> kDtypes{{
    {"F32", 4},
    {"BF16", 2},
    {"F16", 2},
    {"F64", 8},
    {"I64", 8},
    {"I32", 4},
    {"I16", 2},
    {"I8", 1},
    {"U8", 1},
    {"U16", 2},
    {"U32", 4},
    {"U64", 8},
    {"BOOL", 1},
    {"C64", 8},
    {"F8_E4M3", 1},
    {"F8_E5M2", 1},
}};

struct WeightDtype {
  std::string_view dtype;
  std::string_view word;
};

constexpr std::array<WeightDtype, 3> kWeightDtypes{{
    {"F32", "float32"},
    {"BF16", "bfloat16"},
    {"F16", "float16"},
}};

Result<int64_t> bytes_of_element(const std::string& dtype) {
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) return known.bytes;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype \"", dtype, "\""));
}

}  // namespace

Result<uint64_t> bytes_of_tensor(const std::string& dtype, const std::vector<int64_t>& shape) {
  EMOE_ASSIGN_OR_RETURN(int64_t bytes, bytes_of_element(dtype));
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

bool is_weight_dtype(const std::string& dtype) {
  return !word_of_dtype(dtype).empty();
}

std::string word_of_dtype(const std::string& dtype) {
  for (const WeightDtype& known : kWeightDtypes) {
    if (known.dtype == dtype) return std::string(known.word);
  }
  return "";
}

std::string dtype_of_word(const std::string& word) {
  for (const WeightDtype& known : kWeightDtypes) {
    if (known.word == word) return std::string(known.dtype);
  }
  return "";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace emoe
