#pragma once

#include <cstddef>
#include <cstdint>

namespace emoe::data {

// Parquet files, read by Arrow's C++ libraries in a module of our own (libemoe_parquet.so) that is loaded
// when a job has such a file: Arrow is 50 MB, and most machines do without. The module offers plain
// functions, so that no C++ type, exception or memory crosses its border. Texts go to sinks that the
// caller gives; the sink `error` is called once where a function fails. One thread uses a file at a time.
struct ParquetApi {
  struct TextSink {
    void* context;
    void (*put)(void* context, const char* data, size_t size);
  };
  // What the rows of a column are.
  enum Kind : int32_t {
    kText = 0,   // a string each, or null
    kTurns = 1,  // a list of structs each
    kOther = 2,
  };
  struct Column {
    const char* name;
    const char* type;  // in Arrow's words: "list<element: struct<role: string>>"
    int32_t kind;
    int64_t filled;  // rows that are not null, as far as the file tells
  };
  struct ColumnSink {
    void* context;
    void (*put)(void* context, const Column& column);
  };

  void* (*open)(const char* path, TextSink error);  // nullptr on error
  void (*close)(void* file);
  void (*columns)(const void* file, ColumnSink sink);  // in the file's order
  // Says which columns rows have, by their place in the file's order, before the first next(), and
  // returns how many bytes their pages unpack to; -1 on error.
  int64_t (*select)(void* file, const int32_t* columns, size_t count, TextSink error);
  // The next row as a JSON object of the selected columns: kRow, kEnd behind the last, or kFailed.
  int32_t (*next)(void* file, TextSink row, TextSink error);
  enum Next : int32_t { kRow = 0, kEnd = 1, kFailed = 2 };
};

inline constexpr char kParquetEntry[] = "emoe_parquet_api";  // () -> const ParquetApi*

}  // namespace emoe::data
