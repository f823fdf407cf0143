#include "worker/tensor/safetensors.h"

#include <array>
#include <cstring>
#include <string_view>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "format/dtype.h"

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

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(SafetensorsHeader header, read_safetensors_header(path));
  return open(path, std::move(header));
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path,
                                              SafetensorsHeader header) {
  EMOE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::open(path));
  if (mapping.bytes().size() != header.file_bytes) {
    return absl::DataLossError(absl::StrCat(path.string(), ": changed while it was being opened"));
  }
  SafetensorsFile file;
  file.path_ = path.string();
  file.header_ = std::move(header);
  file.mapping_ = std::make_shared<MappedFile>(std::move(mapping));
  return file;
}

Result<at::Tensor> SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors().find(name);
  if (found == tensors().end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": no tensor \"", name, "\""));
  }
  const TensorInfo& info = found->second;
  EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(info.dtype));
  const auto bytes = raw(info);
  if (bytes.empty()) return at::empty(info.shape, type);
  // from_blob takes a writable pointer; the mapping is read-only, so a write would be a fault.
  auto* data = const_cast<std::byte*>(bytes.data());
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(type) != 0) {
    // The format does not align tensors, the processor's loads of its type want it: a copy.
    at::Tensor copy = at::empty(info.shape, type);
    std::memcpy(copy.data_ptr(), data, bytes.size());
    return copy;
  }
  const auto keep_alive = mapping_;
  return at::from_blob(
      data, info.shape, [keep_alive](void*) {}, at::TensorOptions(type));
}

std::span<const std::byte> SafetensorsFile::raw(const TensorInfo& info) const {
  return mapping_->bytes().subspan(info.begin, info.end - info.begin);
}

std::span<const std::byte> SafetensorsFile::header_bytes() const {
  uint64_t length = 0;
  std::memcpy(&length, mapping_->bytes().data(), sizeof(length));
  return mapping_->bytes().first(sizeof(length) + length);
}

Result<WeightFolder> WeightFolder::open(const std::filesystem::path& folder) {
  WeightFolder weights;
  EMOE_ASSIGN_OR_RETURN(weights.headers_, read_weight_headers(folder));
  for (auto& [shard, header] : weights.headers_.shards) {
    EMOE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(folder / shard, header));
    weights.files_.emplace(shard, std::move(file));
  }
  return weights;
}

Result<at::Tensor> WeightFolder::tensor(const std::string& name,
                                        const std::vector<int64_t>& expected_shape) const {
  const auto found = headers_.tensors.find(name);
  if (found == headers_.tensors.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor \"", name, "\" in the weights"));
  }
  const TensorInfo& info = found->second;
  if (info.shape != expected_shape) {
    return absl::InvalidArgumentError(absl::StrCat(info.file, ": tensor \"", name, "\" has shape ",
                                                   shape_text(info.shape), ", expected ",
                                                   shape_text(expected_shape)));
  }
  return files_.at(std::filesystem::path(info.file).filename()).tensor(name);
}

void WeightFolder::release() const {
  for (const auto& [shard, file] : files_) file.release();
}

std::span<const std::byte> WeightFolder::raw(const std::string& name) const {
  const TensorInfo& info = headers_.tensors.at(name);
  return files_.at(std::filesystem::path(info.file).filename()).raw(info);
}

}  // namespace emoe::worker
