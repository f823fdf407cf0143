#include "worker/tensor/safetensors.h"

#include <cstring>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "worker/tensor/dtype.h"

namespace emoe::worker {

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

}  // namespace emoe::worker
