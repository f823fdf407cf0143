#include "worker/text/row_cache.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "worker/text/data_report.h"

namespace emoe::worker {
namespace {

constexpr std::string_view kMagic = "EMOEROW2";  // the number is the format's version
constexpr size_t kDigest = 64;

template <typename T>
void append(std::string& out, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Takes bytes from the front; once something does not fit, `good` stays false.
struct Reader {
  std::string_view rest;
  bool good = true;

  std::string_view take(uint64_t size) {
    good = good && size <= rest.size();
    if (!good) return {};
    const std::string_view taken = rest.substr(0, size);
    rest.remove_prefix(size);
    return taken;
  }

  template <typename T>
  std::vector<T> take_array(uint64_t count) {
    const std::string_view bytes =
        take(count > rest.size() / sizeof(T) ? rest.size() + 1 : count * sizeof(T));
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

std::optional<Dataset> parse(std::string_view content) {
  if (content.size() < kMagic.size() + kDigest) return std::nullopt;
  const std::string_view body = content.substr(0, content.size() - kDigest);
  if (sha256_hex(body) != content.substr(body.size())) return std::nullopt;
  Reader reader{body};
  if (reader.take(kMagic.size()) != kMagic) return std::nullopt;
  const auto sizes = reader.take_array<uint64_t>(3);  // header bytes, rows, spans
  if (!reader.good) return std::nullopt;
  Dataset dataset;
  if (!report_from_json(std::string(reader.take(sizes[0])), dataset.report)) return std::nullopt;
  const auto sources = reader.take_array<int64_t>(sizes[1]);
  const auto lengths = reader.take_array<uint32_t>(sizes[1]);
  const auto span_counts = reader.take_array<uint32_t>(sizes[1]);
  Reader spans{reader.take(std::min(sizes[2], body.size()) * sizeof(TokenSpan))};
  if (!reader.good) return std::nullopt;
  for (size_t i = 0; i < sources.size(); ++i) {
    dataset.rows.push_back({.ids = reader.take_array<int32_t>(lengths[i]),
                            .targets = spans.take_array<TokenSpan>(span_counts[i]),
                            .source_index = sources[i]});
  }
  if (!reader.good || !reader.rest.empty() || !spans.good) return std::nullopt;
  return dataset;
}

}  // namespace

std::string row_cache_key(const DatasetOptions& options, const std::string& data_sha256,
                          const std::string& tokenizer_sha256) {
  return sha256_hex(absl::StrFormat(
      "%s\n%s\n%s\n%s\n%d\n%d\n%.17g", std::string(kMagic), data_sha256, tokenizer_sha256,
      options.format, options.max_length, options.train_on_prompt ? 1 : 0, options.fraction));
}

std::filesystem::path row_cache_file(const std::filesystem::path& cache_dir,
                                     const std::string& key) {
  return cache_dir / absl::StrCat("rows-", key.substr(0, 32), ".bin");
}

std::optional<Dataset> read_row_cache(const std::filesystem::path& file) {
  const Result<MappedFile> mapping = MappedFile::open(file);
  if (!mapping.ok()) return std::nullopt;
  std::optional<Dataset> dataset =
      parse({reinterpret_cast<const char*>(mapping->bytes().data()), mapping->bytes().size()});
  if (!dataset) {
    log_warning("%s: the cached rows do not verify and are made anew", file.string());
  }
  return dataset;
}

Status write_row_cache(const std::filesystem::path& file, const Dataset& dataset) {
  const std::string header = to_json(dataset.report);
  std::vector<int64_t> sources;
  std::vector<uint32_t> lengths;
  std::vector<uint32_t> span_counts;
  std::vector<TokenSpan> spans;
  for (const Row& row : dataset.rows) {
    sources.push_back(row.source_index);
    lengths.push_back(static_cast<uint32_t>(row.ids.size()));
    span_counts.push_back(static_cast<uint32_t>(row.targets.size()));
    spans.insert(spans.end(), row.targets.begin(), row.targets.end());
  }
  std::string content(kMagic);
  append(content, std::vector<uint64_t>{header.size(), dataset.rows.size(), spans.size()});
  content += header;
  append(content, sources);
  append(content, lengths);
  append(content, span_counts);
  append(content, spans);
  for (const Row& row : dataset.rows) append(content, row.ids);
  content += sha256_hex(content);
  EMOE_RETURN_IF_ERROR(emoe::create_directories(file.parent_path()));
  return write_file_atomically(file, content);
}

}  // namespace emoe::worker
