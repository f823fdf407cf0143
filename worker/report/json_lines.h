#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/status.h"

namespace emoe::worker {

// A file of one JSON object per line, each with a number "step", that only grows, except that a
// resumed run first drops what it will do again. Readers may follow it at any time.
//
// Lines that cannot be written (disk full) are kept and tried again with the next one; the file
// never ends in half a line. Not thread-safe.
class JsonLines {
 public:
  explicit JsonLines(std::filesystem::path path) : path_(std::move(path)) {}

  // Removes the lines whose step `unwanted` accepts, and lines that are no JSON (torn by a crash).
  // A file that is not there has none.
  [[nodiscard]] Status drop(const std::function<bool(int64_t step)>& unwanted);
  // `line` without its newline.
  [[nodiscard]] Status append(const std::string& line);
  // Writes what is still kept back; OK when there is nothing.
  [[nodiscard]] Status flush();
  // The same; and all lines survive a power cut.
  [[nodiscard]] Status sync();

 private:
  std::filesystem::path path_;
  std::string unwritten_;
};

}  // namespace emoe::worker
