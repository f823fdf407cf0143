#include "worker/text/dataset.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "base/log.h"
#include "base/sha256.h"
#include "config/data_check.h"
#include "worker/text/row_cache.h"

namespace emoe::worker {
namespace {

constexpr char kNoTarget[] = "no target token within max_length";
constexpr char kTooLong[] = "longer than max_length";

// The training rows of one row of the file.
struct Tokenised {
  std::vector<Row> rows;
  bool cut = false;  // tokens were lost
};

Tokenised tokenise_alpaca(const config::DataRow& row, const DatasetOptions& options,
                          const Tokenizer& tokenizer) {
  const std::string prompt = alpaca_prompt(row.instruction, row.input);
  std::vector<int32_t> ids = tokenizer.encode(prompt + row.output);
  ids.push_back(tokenizer.eos_id());
  const auto max_length = static_cast<size_t>(options.max_length);
  const bool cut = ids.size() > max_length;
  if (cut) ids.resize(max_length);
  const size_t prompt_tokens =
      options.train_on_prompt ? 0 : std::min(tokenizer.encode(prompt).size(), ids.size());
  return {{{std::move(ids), static_cast<int32_t>(prompt_tokens), row.index}}, cut};
}

Tokenised tokenise_text(const config::DataRow& row, const DatasetOptions& options,
                        const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode(row.text);
  ids.push_back(tokenizer.eos_id());
  const auto payload = static_cast<size_t>(options.max_length) - 1;  // beside each row's BOS
  Tokenised result;
  for (size_t at = 1; at < ids.size(); at += payload) {
    Row piece{.source_index = row.index};
    piece.ids.push_back(tokenizer.bos_id());
    const size_t end = std::min(at + payload, ids.size());
    piece.ids.insert(piece.ids.end(), ids.begin() + static_cast<ptrdiff_t>(at),
                     ids.begin() + static_cast<ptrdiff_t>(end));
    result.rows.push_back(std::move(piece));
  }
  return result;
}

std::vector<Tokenised> tokenise_all(const std::vector<config::DataRow>& source,
                                    const DatasetOptions& options, const Tokenizer& tokenizer) {
  const auto tokenise = options.format == "alpaca" ? tokenise_alpaca : tokenise_text;
  std::vector<Tokenised> result(source.size());
  const auto work = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      result[i] = tokenise(source[i], options, tokenizer);
      options.on_work_done();
    }
  };
  const size_t threads = std::clamp<size_t>(static_cast<size_t>(std::max(options.threads, 1)), 1,
                                            source.size() / 256 + 1);
  std::vector<std::jthread> others;
  for (size_t i = 1; i < threads; ++i) {
    others.emplace_back(work, source.size() * i / threads, source.size() * (i + 1) / threads);
  }
  work(0, source.size() / threads);
  others.clear();  // joins
  return result;
}

void collect(Tokenised&& tokenised, int64_t index, Dataset& dataset) {
  DataReport& report = dataset.report;
  if (tokenised.rows.size() > 1) ++report.documents_split;
  for (Row& row : tokenised.rows) {
    if (row.target_tokens() == 0) {
      report.skipped[kNoTarget].add(index);
      continue;
    }
    if (tokenised.cut) report.truncated[kTooLong].add(index);
    report.tokens += static_cast<int64_t>(row.ids.size());
    report.target_tokens += row.target_tokens();
    dataset.rows.push_back(std::move(row));
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
  std::vector<config::DataRow> source;
  Diagnostics diagnostics;
  const auto read = config::read_data_rows({options.file, options.format, options.key}, diagnostics,
                                           [&](config::DataRow&& row) {
                                             source.push_back(std::move(row));
                                             options.on_work_done();
                                           });
  EMOE_RETURN_IF_ERROR(read.status());
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  Dataset dataset;
  DataReport& report = dataset.report;
  report.rows_read = static_cast<int64_t>(source.size());
  const auto wanted =
      static_cast<size_t>(std::ceil(options.fraction * static_cast<double>(source.size())));
  source.resize(std::min(wanted, source.size()));
  report.rows_outside_fraction = report.rows_read - static_cast<int64_t>(source.size());
  std::vector<Tokenised> tokenised = tokenise_all(source, options, tokenizer);
  for (size_t i = 0; i < source.size(); ++i) {
    collect(std::move(tokenised[i]), source[i].index, dataset);
  }
  report.rows_used = static_cast<int64_t>(dataset.rows.size());
  report.lengths = measure_lengths(dataset.rows);
  report.format = options.format;
  return dataset;
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

std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return absl::StrCat(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n",
        instruction, "\n\n### Response:");
  }
  return absl::StrCat(
      "Below is an instruction that describes a task, paired with an input that provides further "
      "context. Write a response that appropriately completes the request.\n\n### Instruction:\n",
      instruction, "\n\n### Input:\n", input, "\n\n### Response:");
}

Result<Dataset> load_dataset(const DatasetOptions& options, const Tokenizer& tokenizer) {
  EMOE_RETURN_IF_ERROR(check_options(options));
  EMOE_ASSIGN_OR_RETURN(const std::string sha256,
                        sha256_of_file(options.file, options.on_work_done));
  std::filesystem::path cache;
  std::optional<Dataset> dataset;
  if (!options.cache_dir.empty()) {
    cache = row_cache_file(options.cache_dir, row_cache_key(options, sha256, tokenizer.sha256()));
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
