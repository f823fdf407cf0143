// The module libemoe_parquet.so: Parquet files behind plain functions (parquet_api.h says why).
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include <arrow/api.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/statistics.h>

#include "data/parquet_api.h"

namespace emoe::data {
namespace {

using Api = ParquetApi;
using arrow::Array;
using arrow::DataType;
using arrow::Type;

// Rows that are held in memory together; one may have megabytes.
constexpr int64_t kBatchRows = 64;

void put(Api::TextSink sink, std::string_view text) {
  sink.put(sink.context, text.data(), text.size());
}

void write_string(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof(code), "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  out += '"';
}

void write_value(const Array& array, int64_t row, std::string& out);

void write_list(const Array& values, int64_t begin, int64_t end, std::string& out) {
  out += '[';
  for (int64_t i = begin; i < end; ++i) {
    if (i > begin) out += ',';
    write_value(values, i, out);
  }
  out += ']';
}

void write_struct(const arrow::StructArray& array, int64_t row, std::string& out) {
  out += '{';
  for (int i = 0; i < array.num_fields(); ++i) {
    if (i > 0) out += ',';
    write_string(array.struct_type()->field(i)->name(), out);
    out += ':';
    write_value(*array.field(i), row, out);
  }
  out += '}';
}

// A value that JSON has no kind for becomes an object, which no reader takes for a text.
void write_other(const Array& array, int64_t row, std::string& out) {
  const auto scalar = array.GetScalar(row);
  out += '{';
  write_string(array.type()->ToString(), out);
  out += ':';
  write_string(scalar.ok() ? (*scalar)->ToString() : "", out);
  out += '}';
}

void write_number(double value, std::string& out) {
  if (!std::isfinite(value)) return write_string(std::to_string(value), out);
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", value);
  out += text;
}

void write_value(const Array& array, int64_t row, std::string& out) {
  if (array.IsNull(row)) {
    out += "null";
    return;
  }
  const auto as = [&]<typename Kind>() -> const Kind& { return static_cast<const Kind&>(array); };
  switch (array.type_id()) {
    case Type::STRING:
      return write_string(as.operator()<arrow::StringArray>().GetView(row), out);
    case Type::LARGE_STRING:
      return write_string(as.operator()<arrow::LargeStringArray>().GetView(row), out);
    case Type::STRING_VIEW:
      return write_string(as.operator()<arrow::StringViewArray>().GetView(row), out);
    case Type::DICTIONARY: {
      const auto& words = as.operator()<arrow::DictionaryArray>();
      return write_value(*words.dictionary(), words.GetValueIndex(row), out);
    }
    case Type::BOOL:
      out += as.operator()<arrow::BooleanArray>().Value(row) ? "true" : "false";
      return;
    case Type::INT8:
    case Type::INT16:
    case Type::INT32:
    case Type::INT64:
    case Type::UINT8:
    case Type::UINT16:
    case Type::UINT32:
    case Type::UINT64: {
      const auto scalar = array.GetScalar(row);
      out += scalar.ok() ? (*scalar)->ToString() : "null";
      return;
    }
    case Type::FLOAT:
      return write_number(as.operator()<arrow::FloatArray>().Value(row), out);
    case Type::DOUBLE:
      return write_number(as.operator()<arrow::DoubleArray>().Value(row), out);
    case Type::LIST: {
      const auto& list = as.operator()<arrow::ListArray>();
      return write_list(*list.values(), list.value_offset(row), list.value_offset(row + 1), out);
    }
    case Type::LARGE_LIST: {
      const auto& list = as.operator()<arrow::LargeListArray>();
      return write_list(*list.values(), list.value_offset(row), list.value_offset(row + 1), out);
    }
    case Type::STRUCT:
      return write_struct(as.operator()<arrow::StructArray>(), row, out);
    default:
      return write_other(array, row, out);
  }
}

Api::Kind kind_of(const DataType& type) {
  switch (type.id()) {
    case Type::NA:
    case Type::STRING:
    case Type::LARGE_STRING:
    case Type::STRING_VIEW:
      return Api::kText;
    case Type::DICTIONARY:
      return kind_of(*static_cast<const arrow::DictionaryType&>(type).value_type());
    case Type::LIST:
    case Type::LARGE_LIST: {
      const auto& element = static_cast<const arrow::BaseListType&>(type).value_type();
      return element->id() == Type::STRUCT ? Api::kTurns : Api::kOther;
    }
    default:
      return Api::kOther;
  }
}

// A file that is open, and where its reading is.
struct File {
  std::unique_ptr<parquet::arrow::FileReader> reader;
  std::shared_ptr<arrow::Schema> schema;
  std::unique_ptr<arrow::RecordBatchReader> batches;
  std::shared_ptr<arrow::RecordBatch> batch;
  int64_t row = 0;  // of the batch, the next one
  std::string text;

  [[nodiscard]] std::shared_ptr<parquet::FileMetaData> metadata() const {
    return reader->parquet_reader()->metadata();
  }
  // The leaf columns of the top-level column at `index`.
  [[nodiscard]] std::vector<int> leaves(int index) const {
    std::vector<int> found;
    const std::function<void(const parquet::arrow::SchemaField&)> add = [&](const auto& field) {
      if (field.column_index >= 0) found.push_back(field.column_index);
      for (const auto& child : field.children) add(child);
    };
    add(reader->manifest().schema_fields[index]);
    return found;
  }
  // Rows that are not null, as far as the row groups say; else all.
  [[nodiscard]] int64_t filled(int index) const {
    if (schema->field(index)->type()->id() == Type::NA) return 0;
    const auto all = metadata();
    int64_t count = all->num_rows();
    const std::vector<int> parts = leaves(index);
    if (!reader->manifest().schema_fields[index].children.empty()) return count;
    for (int group = 0; group < all->num_row_groups(); ++group) {
      const auto told = all->RowGroup(group)->ColumnChunk(parts.front())->statistics();
      if (told != nullptr && told->HasNullCount()) count -= told->null_count();
    }
    return count;
  }
};

// Runs `work`; what it throws goes to the sink, and `failed` is returned.
template <typename Work, typename Value>
Value guarded(Api::TextSink error, Value failed, const Work& work) {
  try {
    return work();
  } catch (const std::exception& thrown) {
    put(error, thrown.what());
  } catch (...) {
    put(error, "an unknown error");
  }
  return failed;
}

void require(const arrow::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}
template <typename Value>
Value require(arrow::Result<Value> result) {
  require(result.status());
  return std::move(result).ValueUnsafe();
}

void* open_file(const char* path, Api::TextSink error) {
  return guarded(error, static_cast<void*>(nullptr), [&]() -> void* {
    auto properties = parquet::default_reader_properties();
    properties.enable_buffered_stream();  // a row group is read page by page
    parquet::arrow::FileReaderBuilder builder;
    require(builder.OpenFile(path, /*memory_map=*/false, properties));
    parquet::ArrowReaderProperties options(/*use_threads=*/false);
    options.set_batch_size(kBatchRows);
    options.set_pre_buffer(false);
    builder.properties(options);
    auto file = std::make_unique<File>();
    file->reader = require(builder.Build());
    require(file->reader->GetSchema(&file->schema));
    return file.release();
  });
}

void list_columns(const void* handle, Api::ColumnSink sink) {
  const auto& file = *static_cast<const File*>(handle);
  for (int i = 0; i < file.schema->num_fields(); ++i) {
    const auto& field = file.schema->field(i);
    const std::string type = field->type()->ToString();
    sink.put(sink.context, {field->name().c_str(), type.c_str(), kind_of(*field->type()),
                            guarded({nullptr, [](void*, const char*, size_t) {}}, int64_t{0},
                                    [&] { return file.filled(i); })});
  }
}

int64_t select_columns(void* handle, const int32_t* columns, size_t count, Api::TextSink error) {
  auto& file = *static_cast<File*>(handle);
  return guarded(error, int64_t{-1}, [&]() -> int64_t {
    std::vector<int> leaves;
    for (size_t i = 0; i < count; ++i) {
      const std::vector<int> own = file.leaves(columns[i]);
      leaves.insert(leaves.end(), own.begin(), own.end());
    }
    const auto metadata = file.metadata();
    std::vector<int> groups(metadata->num_row_groups());
    std::iota(groups.begin(), groups.end(), 0);
    int64_t bytes = 0;
    for (const int group : groups) {
      const auto told = metadata->RowGroup(group);
      for (const int leaf : leaves) bytes += told->ColumnChunk(leaf)->total_uncompressed_size();
    }
    file.batches = require(file.reader->GetRecordBatchReader(groups, leaves));
    return bytes;
  });
}

int32_t next_row(void* handle, Api::TextSink row, Api::TextSink error) {
  auto& file = *static_cast<File*>(handle);
  return guarded(error, int32_t{Api::kFailed}, [&]() -> int32_t {
    while (file.batch == nullptr || file.row == file.batch->num_rows()) {
      require(file.batches->ReadNext(&file.batch));
      file.row = 0;
      if (file.batch == nullptr) return Api::kEnd;
    }
    file.text = '{';
    for (int i = 0; i < file.batch->num_columns(); ++i) {
      if (i > 0) file.text += ',';
      write_string(file.batch->schema()->field(i)->name(), file.text);
      file.text += ':';
      write_value(*file.batch->column(i), file.row, file.text);
    }
    file.text += '}';
    ++file.row;
    put(row, file.text);
    return Api::kRow;
  });
}

constexpr Api kApi{
    .open = open_file,
    .close = [](void* handle) { delete static_cast<File*>(handle); },
    .columns = list_columns,
    .select = select_columns,
    .next = next_row,
};

}  // namespace
}  // namespace emoe::data

extern "C" __attribute__((visibility("default"))) const void* emoe_parquet_api() {
  return &emoe::data::kApi;
}
