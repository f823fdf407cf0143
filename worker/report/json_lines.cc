#include "worker/report/json_lines.h"

#include <sstream>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe::worker {
namespace {

bool keep(const std::string& line, const std::function<bool(int64_t)>& unwanted) {
  const auto value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return false;
  const auto step = value.find("step");
  return step != value.end() && step->is_number_integer() && !unwanted(step->get<int64_t>());
}

}  // namespace

Status JsonLines::drop(const std::function<bool(int64_t)>& unwanted) {
  if (!std::filesystem::exists(path_)) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path_));
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn: a line is whole with its newline
    const std::string line = text.substr(begin, end - begin);
    if (keep(line, unwanted)) kept += line + "\n";
    begin = end + 1;
  }
  if (kept == text) return ok_status();
  return write_file_atomically(path_, kept);
}

Status JsonLines::append(const std::string& line) {
  unwritten_ += line + "\n";
  return flush();
}

Status JsonLines::sync() {
  EMOE_RETURN_IF_ERROR(flush());
  if (!std::filesystem::exists(path_)) return ok_status();
  EMOE_RETURN_IF_ERROR(sync_file(path_));
  return sync_directory(path_.parent_path());
}

Status JsonLines::flush() {
  if (unwritten_.empty()) return ok_status();
  std::error_code error;
  const auto size = std::filesystem::file_size(path_, error);
  if (error && error != std::errc::no_such_file_or_directory)
    return errno_status(error.value(), "cannot read the size of " + path_.string());
  const uintmax_t size_before = error ? 0 : size;
  Status status = append_to_file(path_, unwritten_);
  if (status.ok()) {
    unwritten_.clear();
  } else {
    std::filesystem::resize_file(path_, size_before, error);  // the part that did fit
  }
  return status;
}

}  // namespace emoe::worker
