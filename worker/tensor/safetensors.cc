#include "worker/tensor/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "worker/tensor/dtype.h"
#include "worker/tensor/strict_json.h"

namespace emoe::worker {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own implementation
static_assert(std::endian::native == std::endian::little, "the format is little-endian");

Status damaged(const std::string& file, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": ", what));
}

Status damaged(const std::string& file, const std::string& tensor, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": tensor \"", tensor, "\": ", what));
}

Result<uint64_t> header_length(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes) {
    return damaged(file, absl::StrCat("only ", bytes.size(), " bytes, no safetensors file"));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length < 2) return damaged(file, absl::StrCat("header length ", length, " is too small"));
  if (length > kMaxHeaderBytes) {
    return damaged(file, absl::StrCat("header length ", length, " is above the format's limit of ",
                                      kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    return damaged(file, absl::StrCat("header length ", length, " is beyond the end of the file (",
                                      bytes.size(), " bytes)"));
  }
  return length;
}

// A whole number of 0 … 2^63 - 1; nothing else (negative, fraction, overflow) passes.
bool read_count(const json& value, int64_t& count) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return false;
  count = static_cast<int64_t>(value.get<uint64_t>());
  return true;
}

Result<TensorInfo> read_entry(const json& entry, const std::string& file, const std::string& name) {
  if (!entry.is_object()) return damaged(file, name, "its header entry is not an object");
  for (const auto& [key, unused] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return damaged(file, name, absl::StrCat("unknown header key \"", key, "\""));
    }
  }
  if (entry.size() != 3) return damaged(file, name, "needs dtype, shape and data_offsets");
  const json& shape = entry["shape"];
  const json& offsets = entry["data_offsets"];
  if (!entry["dtype"].is_string()) return damaged(file, name, "dtype is not a string");
  if (!shape.is_array()) return damaged(file, name, "shape is not a list");

  TensorInfo info;
  info.file = file;
  info.dtype = entry["dtype"].get<std::string>();
  for (const json& size : shape) {
    int64_t count = 0;
    if (!read_count(size, count)) return damaged(file, name, "shape has a size that is no count");
    info.shape.push_back(count);
  }
  int64_t begin = 0;
  int64_t end = 0;
  if (!offsets.is_array() || offsets.size() != 2 || !read_count(offsets[0], begin) ||
      !read_count(offsets[1], end) || end < begin) {
    return damaged(file, name, "data_offsets is not a range [begin, end] of byte counts");
  }
  info.begin = static_cast<uint64_t>(begin);
  info.end = static_cast<uint64_t>(end);
  const Result<uint64_t> bytes = bytes_of_tensor(info.dtype, info.shape);
  if (!bytes.ok()) return damaged(file, name, std::string(bytes.status().message()));
  if (*bytes != info.end - info.begin) {
    return damaged(file, name,
                   absl::StrCat(info.dtype, " ", shape_text(info.shape), " needs ", *bytes,
                                " bytes, its range has ", info.end - info.begin));
  }
  return info;
}

// The ranges, relative to the data, must tile it: no overlap, no hole, nothing left at the end.
Status check_ranges(const std::map<std::string, TensorInfo>& tensors, uint64_t data_bytes,
                    const std::string& file) {
  std::vector<std::map<std::string, TensorInfo>::const_iterator> order;
  for (auto it = tensors.begin(); it != tensors.end(); ++it) order.push_back(it);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t expected = 0;
  for (const auto& it : order) {
    const auto& [name, info] = *it;
    if (info.end > data_bytes) {
      return damaged(file, name,
                     absl::StrCat("bytes ", info.begin, " … ", info.end, " reach beyond the data (",
                                  data_bytes, " bytes)"));
    }
    if (info.begin < expected) {
      return damaged(file, name,
                     absl::StrCat("overlaps the tensor before it at byte ", info.begin));
    }
    if (info.begin > expected) {
      return damaged(file, name,
                     absl::StrCat("a hole of ", info.begin - expected, " bytes lies before it"));
    }
    expected = info.end;
  }
  if (expected != data_bytes) {
    return damaged(file, absl::StrCat(data_bytes - expected, " bytes after the last tensor"));
  }
  return ok_status();
}

Result<std::map<std::string, std::string>> read_metadata(const json& entry,
                                                         const std::string& file) {
  if (!entry.is_object()) return damaged(file, "__metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return damaged(file, absl::StrCat("__metadata__ \"", key, "\" is not a string"));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::open(path));
  SafetensorsFile file;
  file.path_ = path.string();
  file.mapping_ = std::make_shared<MappedFile>(std::move(mapping));
  const auto bytes = file.mapping_->bytes();
  EMOE_ASSIGN_OR_RETURN(const uint64_t length, header_length(bytes, file.path_));

  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (text.front() != '{') return damaged(file.path_, "the header is not a JSON object");
  const Result<json> header = parse_strict_json(text, file.path_ + ": header");
  if (!header.ok()) return absl::DataLossError(std::string(header.status().message()));

  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      EMOE_ASSIGN_OR_RETURN(file.metadata_, read_metadata(entry, file.path_));
      continue;
    }
    EMOE_ASSIGN_OR_RETURN(file.tensors_[name], read_entry(entry, file.path_, name));
  }
  const uint64_t data_begin = kLengthBytes + length;
  EMOE_RETURN_IF_ERROR(check_ranges(file.tensors_, bytes.size() - data_begin, file.path_));
  for (auto& [name, info] : file.tensors_) {
    info.begin += data_begin;
    info.end += data_begin;
  }
  return file;
}

Result<at::Tensor> SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
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
