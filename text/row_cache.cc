#include "text/row_cache.h"

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "text/data_report.h"

namespace emoe {
namespace {

constexpr std::string_view kMagic =
    "EMOEROW6";  // raised with the format, and where rows are read in another way
constexpr size_t kDigest = 64;

// An array: the number of its values, and these.
template <typename T>
void append(std::string& out, std::span<const T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const uint64_t count = values.size();
  out.append(reinterpret_cast<const char*>(&count), sizeof count);
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

// Takes arrays from the front; once something does not fit, `good` stays false.
struct Reader {
  std::string_view rest;
  bool good = true;

  template <typename T>
  std::vector<T> take() {
    uint64_t count = 0;
    good = good && rest.size() >= sizeof count;
    if (good) std::memcpy(&count, rest.data(), sizeof count);
    good = good && count <= (rest.size() - sizeof count) / sizeof(T);
    if (!good) return {};
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), rest.data() + sizeof count, count * sizeof(T));
    rest.remove_prefix(sizeof count + count * sizeof(T));
    return values;
  }
};

std::optional<Dataset> parse(std::string_view content) {
  if (content.size() < kMagic.size() + kDigest || !content.starts_with(kMagic)) return std::nullopt;
  const std::string_view body = content.substr(0, content.size() - kDigest);
  if (sha256_hex(body) != content.substr(body.size())) return std::nullopt;
  Reader reader{body.substr(kMagic.size())};
  const auto header = reader.take<char>();
  const auto report = report_from_json({header.begin(), header.end()});
  if (!report) return std::nullopt;
  Dataset dataset{.rows = {}, .report = *report, .sources = reader.take<data::RowKey>()};
  const auto probe = reader.take<char>();
  dataset.probe = probe_from_json({probe.begin(), probe.end()});
  const auto jinja = reader.take<char>();
  dataset.jinja = {jinja.begin(), jinja.end()};
  const auto end = reader.take<int32_t>();
  if (end.size() != 2) return std::nullopt;
  dataset.end_of_row = end[0];
  dataset.template_ends = end[1] != 0;
  for (const int64_t source : reader.take<int64_t>()) {
    dataset.rows.push_back({.ids = reader.take<int32_t>(),
                            .targets = reader.take<TokenSpan>(),
                            .source_index = source});
  }
  if (!reader.good || !reader.rest.empty()) return std::nullopt;
  dataset.report.lengths = measure_lengths(dataset.rows);
  return dataset;
}

}  // namespace

std::filesystem::path row_cache_file(const DatasetOptions& options,
                                     const std::vector<std::string>& digests,
                                     const std::string& tokenizer) {
  nlohmann::json all = {options.key,
                        options.format,
                        options.chat_template,
                        options.fields,
                        options.last_answer_only,
                        options.max_length,
                        options.train_on_prompt,
                        options.fraction,
                        static_cast<int>(options.held_out.side),
                        options.held_out.fraction,
                        options.seed,
                        tokenizer};
  for (size_t i = 0; i < options.files.size(); ++i) {
    const data::WeightedFile& file = options.files[i];
    all.push_back({file.path.filename().string(), digests[i], file.weight});
  }
  const std::string key = sha256_hex(
      std::string(kMagic) + all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return options.cache_dir / absl::StrCat("rows-", key.substr(0, 32), ".bin");
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
  std::vector<int64_t> sources;
  for (const Row& row : dataset.rows) sources.push_back(row.source_index);
  std::string content(kMagic);
  append<char>(content, to_json(dataset.report));
  append<data::RowKey>(content, dataset.sources);
  append<char>(content, to_json(dataset.probe));
  append<char>(content, dataset.jinja);
  append<int32_t>(content, std::vector<int32_t>{dataset.end_of_row, dataset.template_ends});
  append<int64_t>(content, sources);
  for (const Row& row : dataset.rows) {
    append<int32_t>(content, row.ids);
    append<TokenSpan>(content, row.targets);
  }
  content += sha256_hex(content);
  EMOE_RETURN_IF_ERROR(emoe::create_directories(file.parent_path()));
  return write_file_atomically(file, content);
}

}  // namespace emoe
