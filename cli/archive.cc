#include "cli/archive.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <zlib.h>

#include "base/file.h"

namespace emoe::cli {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kLongestName = 100;

// The header of a regular file: names and octal numbers at fixed places (POSIX.1-1988, pax(1)).
std::string header_of(const std::string& name, size_t size, int64_t time) {
  std::string header(kBlock, '\0');
  const auto put = [&](size_t at, const std::string& text) {
    header.replace(at, text.size(), text);
  };
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, absl::StrFormat("%011o", size));
  put(136, absl::StrFormat("%011o", time));
  put(148, "        ");  // the sum is made as if it were spaces
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  put(148, absl::StrFormat("%06o", sum) + std::string("\0 ", 2));
  return header;
}

}  // namespace

Archive::Archive(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp") {
  errno = 0;
  file_ = ::gzopen(temporary_.c_str(), "wb");
  if (file_ == nullptr) status_ = errno_status(errno, temporary_.string());
}

Archive::~Archive() {
  if (file_ == nullptr) return;
  ::gzclose(static_cast<gzFile>(file_));
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void Archive::write(const std::string& bytes) {
  if (!status_.ok() || bytes.empty()) return;
  errno = 0;
  const int written =
      ::gzwrite(static_cast<gzFile>(file_), bytes.data(), static_cast<unsigned>(bytes.size()));
  if (written == static_cast<int>(bytes.size())) return;
  status_ = errno_status(errno == 0 ? EIO : errno, temporary_.string());
}

void Archive::add(const std::string& name, const std::string& content, int64_t time) {
  if (name.size() > kLongestName && status_.ok()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(name, ": too long a name for an archive"));
  }
  write(header_of(name.substr(0, kLongestName), content.size(), time));
  write(content);
  write(std::string((kBlock - content.size() % kBlock) % kBlock, '\0'));
}

Status Archive::finish() {
  write(std::string(2 * kBlock, '\0'));
  if (file_ == nullptr) return status_;
  errno = 0;
  const int closed = ::gzclose(static_cast<gzFile>(file_));
  file_ = nullptr;
  if (status_.ok() && closed != Z_OK) {
    status_ = errno_status(errno == 0 ? EIO : errno, temporary_.string());
  }
  std::error_code error;
  if (status_.ok()) std::filesystem::rename(temporary_, path_, error);
  if (error) status_ = errno_status(error.value(), path_.string());
  if (!status_.ok()) std::filesystem::remove(temporary_, error);
  return status_;
}

}  // namespace emoe::cli
