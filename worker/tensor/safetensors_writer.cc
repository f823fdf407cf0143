#include <set>
#include <utility>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "format/dtype.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

// The whole header: length, then JSON padded with spaces so that the data starts at a multiple of 8
// (as the format's own writer does).
Result<std::string> header_text(const std::vector<SafetensorsWriter::Planned>& plan,
                                const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string> names{"__metadata__"};
  uint64_t offset = 0;
  for (const auto& planned : plan) {
    if (!names.insert(planned.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the tensor name \"", planned.name, "\" is planned twice or reserved"));
    }
    const Result<uint64_t> bytes = bytes_of_tensor(planned.dtype, planned.shape);
    if (!bytes.ok()) {
      return with_context(bytes.status(), absl::StrCat("tensor \"", planned.name, "\""));
    }
    header[planned.name] = {{"dtype", planned.dtype},
                            {"shape", planned.shape},
                            {"data_offsets", {offset, offset + *bytes}}};
    offset += *bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("a name is not UTF-8: ", error.what()));
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::filesystem::path& path, std::vector<Planned> plan,
    const std::map<std::string, std::string>& metadata, Way way) {
  const Result<std::string> header = header_text(plan, metadata);
  if (!header.ok()) return with_context(header.status(), path.string());
  return create_with_header(path, std::move(plan), *header, way);
}

Result<SafetensorsWriter> SafetensorsWriter::create_with_header(const std::filesystem::path& path,
                                                                std::vector<Planned> plan,
                                                                const std::string& header,
                                                                Way way) {
  const auto opened = [&]() -> Result<File> {
    if (way == Way::kPlain) {
      EMOE_ASSIGN_OR_RETURN(FileWriter plain, FileWriter::create(path));
      return File(std::move(plain));
    }
    uint64_t size = header.size();
    for (const Planned& planned : plan) {
      EMOE_ASSIGN_OR_RETURN(const uint64_t bytes, bytes_of_tensor(planned.dtype, planned.shape));
      size += bytes;
    }
    EMOE_ASSIGN_OR_RETURN(HashedFileWriter hashed, HashedFileWriter::create(path, size));
    return File(std::move(hashed));
  };
  EMOE_ASSIGN_OR_RETURN(File file, opened());
  SafetensorsWriter writer(std::move(file), std::move(plan));
  EMOE_RETURN_IF_ERROR(writer.write_bytes(header.data(), header.size()));
  return writer;
}

Status SafetensorsWriter::write_bytes(const void* data, size_t size) {
  return std::visit([&](auto& file) { return file.write(data, size); }, file_);
}

Status SafetensorsWriter::write(const at::Tensor& tensor) {
  if (next_ >= plan_.size()) return absl::FailedPreconditionError("more tensors than planned");
  const Planned& planned = plan_[next_];
  if (tensor.sizes() != at::IntArrayRef(planned.shape)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", planned.name, "\": shape ",
                                                   shape_text(tensor.sizes().vec()), ", planned ",
                                                   shape_text(planned.shape)));
  }
  EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(planned.dtype));
  const at::Tensor bytes = tensor.detach().to(at::kCPU, type).contiguous();
  return write_raw(
      {static_cast<const std::byte*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.nbytes())});
}

Status SafetensorsWriter::write_raw(std::span<const std::byte> bytes) {
  if (next_ >= plan_.size()) return absl::FailedPreconditionError("more tensors than planned");
  const Planned& planned = plan_[next_];
  EMOE_ASSIGN_OR_RETURN(const uint64_t expected, bytes_of_tensor(planned.dtype, planned.shape));
  if (bytes.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", planned.name, "\": ", bytes.size(),
                                                   " bytes, planned ", expected));
  }
  EMOE_RETURN_IF_ERROR(write_bytes(bytes.data(), bytes.size()));
  ++next_;
  return ok_status();
}

Status SafetensorsWriter::close() {
  if (next_ != plan_.size()) {
    return absl::FailedPreconditionError(absl::StrCat("tensor \"", plan_[next_].name,
                                                      "\" was planned and not written (", next_,
                                                      " of ", plan_.size(), ")"));
  }
  EMOE_RETURN_IF_ERROR(std::visit([](auto& file) { return file.close(); }, file_));
  if (const auto* hashed = std::get_if<HashedFileWriter>(&file_)) sha256_ = hashed->sha256();
  return ok_status();
}

Status write_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                     const std::map<std::string, std::string>& metadata,
                     const std::function<void()>& on_work_done) {
  std::vector<SafetensorsWriter::Planned> plan;
  plan.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    plan.push_back({name, dtype_name(tensor.scalar_type()), tensor.sizes().vec()});
  }
  EMOE_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, std::move(plan), metadata));
  for (const auto& [name, tensor] : tensors) {
    EMOE_RETURN_IF_ERROR(writer.write(tensor));
    on_work_done();
  }
  return writer.close();
}

}  // namespace emoe::worker
