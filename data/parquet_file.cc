#include "data/parquet_file.h"

#include <algorithm>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/input_file.h"
#include "base/module.h"

namespace emoe::data {
namespace {

Result<const ParquetApi*> load_api() {
  static const Result<const void*> loaded =
      load_module({.built = EMOE_PARQUET_MODULE, .entry = kParquetEntry});
  if (loaded.ok()) return static_cast<const ParquetApi*>(*loaded);
  return absl::UnimplementedError(
      absl::IsNotFound(loaded.status())
          ? "is Parquet, which this build does not read (it was made without PyPI's pyarrow)"
          : absl::StrCat("is Parquet, which cannot be read here (", loaded.status().message(),
                         ")"));
}

ParquetApi::TextSink into(std::string& text) {
  return {&text, [](void* context, const char* data, size_t size) {
            static_cast<std::string*>(context)->append(data, size);
          }};
}

// The bytes that a Parquet file begins and ends with; of one with an encrypted footer others.
constexpr std::string_view kMark = "PAR1";
constexpr std::string_view kEncryptedMark = "PARE";

// What is wrong with a file by its first and last bytes; empty: nothing.
std::string fault_of_marks(std::string_view front, std::string_view end) {
  if (front.starts_with(kEncryptedMark)) return "is encrypted; write it without encryption";
  if (!front.starts_with(kMark)) {
    const std::string other = stand_in(front, InputKind::text);
    return other.empty() ? "is no Parquet file: it does not begin with \"PAR1\"" : other;
  }
  if (end == kMark) return "";
  return "is cut off: it does not end as a Parquet file does; was it downloaded to its end?";
}

// Arrow's words as one sentence of ours.
std::string fault_of_words(std::string words) {
  if (absl::StrContains(words, "ncrypt") || absl::StrContains(words, "decrypt")) {
    return "has encrypted columns; write it without encryption";
  }
  words.resize(std::min(words.size(), words.find('\n')));
  return absl::StrCat("is no good Parquet file: ", words);
}

}  // namespace

Status ParquetFile::damaged(const std::string& why) const {
  return absl::DataLossError(absl::StrCat(path_.string(), ": ", why));
}

Result<ParquetFile> ParquetFile::open(const std::filesystem::path& path, UnpackLimit limit) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  EMOE_ASSIGN_OR_RETURN(const std::string front, file.front(kFrontBytes));
  EMOE_RETURN_IF_ERROR(file.seek(file.size() - std::min<uint64_t>(kMark.size(), file.size())));
  std::string end(kMark.size(), '\0');
  EMOE_ASSIGN_OR_RETURN(const size_t got, file.read(end.data(), end.size()));
  end.resize(got);
  const std::string fault = fault_of_marks(front, end);
  if (!fault.empty()) return absl::DataLossError(absl::StrCat(path.string(), ": ", fault));
  EMOE_ASSIGN_OR_RETURN(const ParquetApi* const api, load_api());
  std::string error;
  ParquetFile opened(*api, {api->open(path.c_str(), into(error)), api->close}, path, file.size(),
                     limit);
  if (opened.handle_ == nullptr) return opened.damaged(fault_of_words(std::move(error)));
  api->columns(
      opened.handle_.get(),
      {&opened.columns_, [](void* context, const ParquetApi::Column& column) {
         static_cast<std::vector<Column>*>(context)->push_back(
             {column.name, column.type, static_cast<ParquetApi::Kind>(column.kind), column.filled});
       }});
  return opened;
}

Status ParquetFile::select(const std::vector<int32_t>& columns) {
  std::string error;
  const int64_t bytes = api_->select(handle_.get(), columns.data(), columns.size(), into(error));
  if (bytes < 0) return damaged(fault_of_words(std::move(error)));
  return limit_.check(static_cast<uint64_t>(bytes), size_, path_);
}

Result<bool> ParquetFile::next(std::string& row) {
  row.clear();
  std::string error;
  const int32_t what = api_->next(handle_.get(), into(row), into(error));
  if (what == ParquetApi::kFailed) return damaged(fault_of_words(std::move(error)));
  made_ += row.size();
  EMOE_RETURN_IF_ERROR(limit_.check(made_, size_, path_));
  return what == ParquetApi::kRow;
}

std::string parquet_conversion(const std::filesystem::path& path) {
  std::filesystem::path lines = path.filename();
  lines.replace_extension(".jsonl");
  return absl::StrCat("convert it: python -c \"import pyarrow.parquet as p, json; open('",
                      lines.string(),
                      "','w').writelines(json.dumps(r)+'\\n' for r in p.read_table('",
                      path.filename().string(), "').to_pylist())\"");
}

}  // namespace emoe::data
