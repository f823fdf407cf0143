#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/byte_source.h"
#include "data/parquet_api.h"

namespace emoe::data {

// A Parquet file, read row by row through the module of parquet_api.h, whatever its size: the pages of a
// few rows are in memory at a time. Not thread-safe.
class ParquetFile {
 public:
  struct Column {
    std::string name;
    std::string type;  // in Arrow's words
    ParquetApi::Kind kind = ParquetApi::kOther;
    int64_t filled = 0;  // rows that are not null, as far as the file tells
  };

  // UNIMPLEMENTED: this installation has no module for it; the message says why. DATA_LOSS: the file is
  // damaged, encrypted, or none. File errors as they come.
  [[nodiscard]] static Result<ParquetFile> open(const std::filesystem::path& path,
                                                UnpackLimit limit = {});

  // The top-level columns, in the file's order.
  [[nodiscard]] const std::vector<Column>& columns() const { return columns_; }
  // Which of them the rows have; before the first next(). INVALID_ARGUMENT beyond the limit.
  [[nodiscard]] Status select(const std::vector<int32_t>& columns);
  // The next row as a JSON object; false behind the last one. DATA_LOSS: it cannot be read;
  // INVALID_ARGUMENT beyond the limit.
  [[nodiscard]] Result<bool> next(std::string& row);

 private:
  using Handle = std::unique_ptr<void, void (*)(void*)>;
  ParquetFile(const ParquetApi& api, Handle handle, std::filesystem::path path, uint64_t size,
              UnpackLimit limit)
      : api_(&api),
        handle_(std::move(handle)),
        path_(std::move(path)),
        size_(size),
        limit_(limit) {}
  [[nodiscard]] Status damaged(const std::string& why) const;

  const ParquetApi* api_;
  Handle handle_;
  std::filesystem::path path_;
  uint64_t size_;
  UnpackLimit limit_;
  uint64_t made_ = 0;
  std::vector<Column> columns_;
};

// Where a file is read without the module: the line that converts it to JSON.
[[nodiscard]] std::string parquet_conversion(const std::filesystem::path& path);

}  // namespace emoe::data
