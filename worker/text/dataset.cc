#include "worker/text/dataset.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/sha256.h"
#include "data/read_rows.h"
#include "data/row_warnings.h"
#include "worker/text/row_cache.h"

namespace emoe::worker {
namespace {

constexpr char kNoTarget[] = "no target token within max_length";
constexpr char kTooLong[] = "longer than max_length";

// The training rows of one row of the file.
struct Tokenised {
  std::vector<Row> rows;
  bool cut = false;                      // tokens were lost
  std::set<std::string> tokens_as_text;  // special ones, read as letters
};

// Leaves the first `length` tokens and the targets among them.
void cut_row(Row& row, size_t length) {
  row.ids.resize(length);
  for (TokenSpan& span : row.targets) span.end = std::min(span.end, static_cast<int32_t>(length));
  std::erase_if(row.targets, [](const TokenSpan& span) { return span.begin >= span.end; });
}

Tokenised tokenise_messages(const data::SourceRow& source, const DatasetOptions& options,
                            const ChatTemplate& chat, const Tokenizer& tokenizer) {
  std::vector<TextPart> parts = chat.render(source.messages);
  for (TextPart& part : parts) part.trained = part.trained || options.train_on_prompt;
  Row row = parts_to_row(parts, tokenizer);
  row.source_index = source.index;
  const auto max_length = static_cast<size_t>(options.max_length);
  const bool cut = row.ids.size() > max_length;
  cut_row(row, std::min(row.ids.size(), max_length));
  return {{std::move(row)}, cut};
}

Tokenised tokenise_text(const data::SourceRow& row, const DatasetOptions& options,
                        const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode(row.text);
  ids.push_back(tokenizer.eos_id());
  const auto payload =
      static_cast<size_t>(options.max_length) - 1;  // beside what each row begins with
  Tokenised result;
  for (size_t at = 1; at < ids.size(); at += payload) {
    Row piece{.source_index = row.index};
    piece.ids.push_back(tokenizer.has_bos() ? tokenizer.bos_id() : ids[at - 1]);
    const size_t end = std::min(at + payload, ids.size());
    piece.ids.insert(piece.ids.end(), ids.begin() + static_cast<ptrdiff_t>(at),
                     ids.begin() + static_cast<ptrdiff_t>(end));
    piece.targets = {{1, static_cast<int32_t>(piece.ids.size())}};
    result.rows.push_back(std::move(piece));
  }
  return result;
}

std::vector<Tokenised> tokenise_all(const std::vector<data::SourceRow>& source,
                                    const data::RowFormat& format, const DatasetOptions& options,
                                    const Tokenizer& tokenizer) {
  const ChatTemplate* chat = find_chat_template(format.chat_template);
  EMOE_CHECK(chat != nullptr || !format.has_messages(), format.chat_template);
  std::vector<Tokenised> result(source.size());
  const auto work = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      result[i] = chat != nullptr ? tokenise_messages(source[i], options, *chat, tokenizer)
                                  : tokenise_text(source[i], options, tokenizer);
      result[i].tokens_as_text = data::tokens_as_text(source[i], tokenizer);
      options.on_work_done();
    }
  };
  const int64_t most = std::ssize(source) / 256 + 1;
  in_parts(static_cast<int>(std::min<int64_t>(options.threads, most)), std::ssize(source), work);
  return result;
}

// What the first rows are as texts.
std::vector<std::string> first_texts(const std::vector<data::SourceRow>& source,
                                     const data::RowFormat& format) {
  constexpr size_t kRows = 4;
  const ChatTemplate* chat = find_chat_template(format.chat_template);
  std::vector<std::string> texts;
  for (size_t i = 0; i < std::min(source.size(), kRows); ++i) {
    texts.push_back(chat == nullptr ? source[i].text : text_of(chat->render(source[i].messages)));
  }
  return texts;
}

// What rows of a file become, and what is to be said of them.
struct Collected {
  Dataset dataset;
  data::RowWarnings warnings;
};

void collect(Tokenised&& tokenised, const data::SourceRow& source, const DatasetOptions& options,
             Collected& all) {
  DataReport& report = all.dataset.report;
  const std::string limit = absl::StrCat("data.max_length ", options.max_length, " tokens");
  if (tokenised.rows.size() > 1) ++report.documents_split;
  for (const std::string& token : tokenised.tokens_as_text) {
    data::warn_of_token(token, place_of(options.file, source), all.warnings);
  }
  all.dataset.sources.push_back(data::key_of(source));
  for (Row& row : tokenised.rows) {
    if (row.target_tokens() == 0) {
      report.skipped[kNoTarget].add(source.index);
      all.warnings.add(warning::kRowsDropped, "", "dropped: nothing to learn within " + limit,
                       place_of(options.file, source));
      continue;
    }
    if (tokenised.cut) {
      report.truncated[kTooLong].add(source.index);
      all.warnings.add(warning::kRowsCut, "", "cut at " + limit, place_of(options.file, source));
    }
    report.tokens += static_cast<int64_t>(row.ids.size());
    report.target_tokens += row.target_tokens();
    all.dataset.rows.push_back(std::move(row));
  }
}

Status check_options(const DatasetOptions& options) {
  Diagnostics diagnostics;
  if (options.max_length < 2) diagnostics.add("data.max_length", "must be at least 2");
  if (!(options.fraction > 0.0 && options.fraction <= 1.0)) {
    diagnostics.add("data.fraction", "must be above 0 and at most 1");
  }
  return diagnostics.to_status();
}

Result<Dataset> tokenise_file(const DatasetOptions& options, const Tokenizer& tokenizer) {
  const data::RowFormat* format = data::find_row_format(options.format);
  EMOE_CHECK(format != nullptr, options.format);
  std::vector<data::SourceRow> source;
  Diagnostics diagnostics;
  const auto read = data::read_rows({options.file, *format, options.key}, diagnostics,
                                    [&](data::SourceRow&& row) {
                                      source.push_back(std::move(row));
                                      options.on_work_done();
                                    });
  EMOE_RETURN_IF_ERROR(read.status());
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  Collected all;
  DataReport& report = all.dataset.report;
  report.rows_read = static_cast<int64_t>(source.size());
  const auto wanted =
      static_cast<size_t>(std::ceil(options.fraction * static_cast<double>(source.size())));
  source.resize(std::min(wanted, source.size()));
  report.rows_outside_fraction = report.rows_read - static_cast<int64_t>(source.size());
  all.dataset.probe = make_probe(first_texts(source, *format), tokenizer);
  std::vector<Tokenised> tokenised = tokenise_all(source, *format, options, tokenizer);
  for (size_t i = 0; i < source.size(); ++i) {
    collect(std::move(tokenised[i]), source[i], options, all);
  }
  report.rows_used = std::ssize(all.dataset.rows);
  report.lengths = measure_lengths(all.dataset.rows);
  report.format = options.format;
  all.warnings.report(options.key, std::ssize(source), diagnostics);
  report.warnings = diagnostics.warnings();
  return std::move(all.dataset);
}

Status check_not_empty(const Dataset& dataset, const DatasetOptions& options) {
  if (!dataset.rows.empty()) return ok_status();
  Diagnostics diagnostics;
  diagnostics.add(
      options.file.filename().string(), "data.max_length",
      absl::StrCat("none of the ", dataset.report.rows_read, " rows has a target token within ",
                   options.max_length, " tokens; raise data.max_length"));
  return diagnostics.to_status();
}

}  // namespace

Row parts_to_row(const std::vector<TextPart>& parts, const Tokenizer& tokenizer) {
  Row row;
  std::string text;
  bool trained = false;
  for (const TextPart& part : parts) {
    if (part.trained != trained) {
      // A longer text may have fewer tokens: the spans must not overlap for that.
      const int32_t last =
          row.targets.empty() ? 1 : std::max(row.targets.back().begin, row.targets.back().end);
      const int32_t at = std::max(last, static_cast<int32_t>(tokenizer.encode(text).size()));
      if (part.trained) {
        row.targets.push_back({.begin = at});
      } else {
        row.targets.back().end = at;
      }
      trained = part.trained;
    }
    text += part.text;
  }
  row.ids = tokenizer.encode(text);
  row.ids.push_back(tokenizer.eos_id());
  if (trained) row.targets.back().end = static_cast<int32_t>(row.ids.size());
  cut_row(row, row.ids.size());
  return row;
}

Result<Dataset> load_dataset(const DatasetOptions& options, const Tokenizer& tokenizer) {
  EMOE_RETURN_IF_ERROR(check_options(options));
  EMOE_ASSIGN_OR_RETURN(const std::string sha256,
                        sha256_of_file(options.file, options.on_work_done));
  std::filesystem::path cache;
  std::optional<Dataset> dataset;
  if (!options.cache_dir.empty()) {
    cache = row_cache_file(options, sha256,
                           absl::StrCat(tokenizer.sha256(), " ", tokenizer.rules().to_text()));
    dataset = read_row_cache(cache);
  }
  if (!dataset) {
    EMOE_ASSIGN_OR_RETURN(dataset, tokenise_file(options, tokenizer));
    EMOE_RETURN_IF_ERROR(check_not_empty(*dataset, options));
    dataset->report.sha256 = sha256;
    if (!cache.empty()) {
      const Status written = write_row_cache(cache, *dataset);
      if (!written.ok()) {
        log_warning("cannot keep the tokenised rows: %s", std::string(written.message()));
      }
    }
  }
  dataset->report.file = options.file.string();
  return *std::move(dataset);
}

}  // namespace emoe::worker
