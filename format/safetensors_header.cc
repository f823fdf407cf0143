#include "format/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "base/input_file.h"
#include "format/dtype.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
// The format allows 100 MB, of which a parser makes gigabytes; a Llama's shard has kilobytes.
constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr char kCutShort[] = ": the file is cut short, as by a download that was not finished";
static_assert(std::endian::native == std::endian::little, "the format is little-endian");

Status damaged(const std::string& file, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": ", what));
}

Status damaged(const std::string& file, const std::string& tensor, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": tensor \"", tensor, "\": ", what));
}

Result<uint64_t> header_length(const std::string& start, uint64_t file_bytes,
                               const std::string& file) {
  if (start.size() < kLengthBytes) {
    return damaged(file, absl::StrCat("only ", start.size(), " bytes, no safetensors file"));
  }
  uint64_t length = 0;
  std::memcpy(&length, start.data(), kLengthBytes);
  if (length < 2) return damaged(file, absl::StrCat("header length ", length, " is too small"));
  if (length > kMaxHeaderBytes) {
    return damaged(
        file, absl::StrCat("header length ", length, " is above the limit of ", kMaxHeaderBytes));
  }
  if (length > file_bytes - kLengthBytes) {
    return damaged(file, absl::StrCat("header length ", length, " is beyond the end of the file (",
                                      file_bytes, " bytes)", kCutShort));
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
                                  data_bytes, " bytes)", kCutShort));
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
  // Texts, by the format; nothing here depends on what some writers put there instead.
  for (const auto& [key, value] : entry.items()) {
    metadata[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return metadata;
}

// The next `size` bytes, fewer where the file ends.
Result<std::string> read_up_to(FileReader& reader, uint64_t size) {
  std::string bytes(size, '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    EMOE_ASSIGN_OR_RETURN(const size_t got,
                          reader.read(bytes.data() + filled, bytes.size() - filled));
    if (got == 0) break;
    filled += got;
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace

Result<SafetensorsHeader> read_safetensors_header(const std::filesystem::path& path) {
  const std::string file = path.string();
  EMOE_ASSIGN_OR_RETURN(FileReader reader, open_input(path, InputKind::safetensors));
  SafetensorsHeader header;
  header.file_bytes = reader.size();
  EMOE_ASSIGN_OR_RETURN(const std::string start, read_up_to(reader, kLengthBytes));
  EMOE_ASSIGN_OR_RETURN(const uint64_t length, header_length(start, header.file_bytes, file));
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_up_to(reader, length));
  if (!text.starts_with('{')) return damaged(file, "the header is not a JSON object");
  const Result<json> entries = parse_strict_json(text, file + ": header");
  if (!entries.ok()) return absl::DataLossError(std::string(entries.status().message()));

  for (const auto& [name, entry] : entries->items()) {
    if (name == "__metadata__") {
      EMOE_ASSIGN_OR_RETURN(header.metadata, read_metadata(entry, file));
      continue;
    }
    EMOE_ASSIGN_OR_RETURN(header.tensors[name], read_entry(entry, file, name));
  }
  const uint64_t data_begin = kLengthBytes + length;
  EMOE_RETURN_IF_ERROR(check_ranges(header.tensors, header.file_bytes - data_begin, file));
  for (auto& [name, info] : header.tensors) {
    info.begin += data_begin;
    info.end += data_begin;
  }
  return header;
}

}  // namespace emoe
