#include "text/dataset.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/diagnostics.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/sha256.h"
#include "data/read_rows.h"
#include "data/row_warnings.h"
#include "text/row_cache.h"
#include "text/template_match.h"
#include "text/tokenise.h"

namespace emoe {
namespace {

constexpr char kNoTarget[] = "no target token within max_length";
constexpr char kNoAnswer[] = "no answer that is to be learned";
constexpr char kTooLong[] = "longer than max_length";

// The rows `which` of the files, in that order.
std::vector<Tokenised> tokenise_all(const std::vector<data::SourceRow>& source,
                                    const std::vector<size_t>& which, const Recipe& recipe) {
  std::vector<Tokenised> result(which.size());
  const auto work = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      result[i] = tokenise_row(source[which[i]], recipe);
      recipe.options.on_work_done();
    }
  };
  const int64_t most = std::ssize(which) / 256 + 1;
  in_parts(static_cast<int>(std::min<int64_t>(recipe.options.threads, most)), std::ssize(which),
           work);
  return result;
}

// What the first rows are as texts.
std::vector<std::string> first_texts(const std::vector<data::SourceRow>& source,
                                     const Recipe& recipe) {
  constexpr size_t kRows = 4;
  std::vector<std::string> texts;
  for (size_t i = 0; i < std::min(source.size(), kRows); ++i) {
    if (recipe.chat == nullptr) {
      texts.push_back(source[i].text);
    } else if (const auto parts = recipe.chat->render(source[i].messages); parts.ok()) {
      texts.push_back(text_of(*parts));
    }
  }
  return texts;
}

// What rows of the files become, and what is to be said of them.
class Collector {
 public:
  Collector(const Recipe& recipe, Dataset& dataset) : recipe_(recipe), dataset_(dataset) {}

  // `again`: the row was added before, and is taken once more.
  void add(const Tokenised& tokenised, const data::SourceRow& source, bool again) {
    if (!again) describe(tokenised, source);
    DataReport& report = dataset_.report;
    for (const Row& row : tokenised.rows) {
      if (row.target_tokens() == 0) continue;
      report.tokens += static_cast<int64_t>(row.ids.size());
      report.target_tokens += row.target_tokens();
      dataset_.rows.push_back(row);
    }
  }

  void report_warnings(int64_t rows, Diagnostics& diagnostics) const {
    warnings_.report(recipe_.options.key, rows, diagnostics);
  }

 private:
  void describe(const Tokenised& tokenised, const data::SourceRow& source) {
    DataReport& report = dataset_.report;
    const std::string place = place_of(recipe_.options.files[source.file].path, source);
    const std::string limit =
        absl::StrCat("data.max_length ", recipe_.options.max_length, " tokens");
    const auto warn = [&](const char* code, const std::string& what) {
      warnings_.add(code, "", what, place);
    };
    if (tokenised.rows.size() > 1) ++report.documents_split;
    for (const std::string& token : tokenised.tokens_as_text) {
      data::warn_of_token(token, place, warnings_);
    }
    const data::RowKey key = data::key_of(source);
    if (!seen_.insert(key.content).second) report.duplicates.add(source.index, place);
    dataset_.sources.push_back(key);
    bool kept = false;
    for (const Row& row : tokenised.rows) {
      if (row.target_tokens() == 0) {
        report.skipped[tokenised.learns_nothing ? kNoAnswer : kNoTarget].add(source.index, place);
        warn(warning::kRowsDropped, tokenised.learns_nothing
                                        ? std::string("dropped: no answer in them is to be learned")
                                        : "dropped: nothing to learn within " + limit);
        continue;
      }
      kept = true;
      if (!tokenised.cut) continue;
      report.truncated[kTooLong].add(source.index, place);
      warn(warning::kRowsCut, "cut at " + limit);
    }
    if (kept && tokenised.empty_answers) data::warn_of_empty_answers(place, warnings_);
  }

  const Recipe& recipe_;
  Dataset& dataset_;
  data::RowWarnings warnings_;
  std::set<uint64_t> seen_;
};

Status check_options(const DatasetOptions& options) {
  Diagnostics diagnostics;
  if (options.max_length < 2) diagnostics.add("data.max_length", "must be at least 2");
  if (!(options.fraction > 0.0 && options.fraction <= 1.0)) {
    diagnostics.add("data.fraction", "must be above 0 and at most 1");
  }
  return diagnostics.to_status();
}

// The leading rows of each file, in order.
Result<std::vector<data::SourceRow>> read_files(const DatasetOptions& options,
                                                const data::RowFormat& format, DataReport& report,
                                                Diagnostics& diagnostics) {
  std::vector<data::SourceRow> source;
  for (size_t number = 0; number < options.files.size(); ++number) {
    const data::WeightedFile& file = options.files[number];
    const size_t before = source.size();
    const data::DataFile given{.path = file.path,
                               .format = format,
                               .key = options.key,
                               .fields = options.fields,
                               .number = static_cast<int64_t>(number),
                               .several = options.files.size() > 1};
    EMOE_RETURN_IF_ERROR(data::read_rows(given, diagnostics, [&](data::SourceRow&& row) {
                           source.push_back(std::move(row));
                           options.on_work_done();
                         }).status());
    const auto rows = static_cast<double>(source.size() - before);
    const auto wanted = static_cast<size_t>(std::ceil(options.fraction * rows));
    report.rows_read += std::ssize(source) - static_cast<int64_t>(before);
    report.rows_outside_fraction += static_cast<int64_t>(rows) - static_cast<int64_t>(wanted);
    report.files.push_back({.path = file.path.string(),
                            .weight = file.weight,
                            .rows_read = static_cast<int64_t>(rows)});
    source.resize(before + wanted);
  }
  return source;
}

std::vector<size_t> choose_rows(const std::vector<data::SourceRow>& source,
                                const DatasetOptions& options, DataReport& report) {
  std::vector<data::RowKey> keys;
  for (const data::SourceRow& row : source) keys.push_back(data::key_of(row));
  std::vector<size_t> chosen =
      data::select_rows(keys, options.files, options.held_out, options.seed);
  for (const size_t place : chosen) ++report.files[source[place].file].rows_chosen;
  if (options.held_out.side != data::HeldOut::Side::none) {
    const bool is_train = options.held_out.side == data::HeldOut::Side::train;
    const auto out = data::held_out_rows(keys, options.held_out.fraction, options.seed);
    report.rows_on_other_side = std::ranges::count(out, is_train);
  }
  return chosen;
}

// That the template takes every row; violations where it does not.
void check_faults(const std::vector<data::SourceRow>& source, const std::vector<size_t>& used,
                  const std::vector<Tokenised>& tokenised, const DatasetOptions& options,
                  Diagnostics& diagnostics) {
  std::vector<data::RowFaults> faults;
  for (const data::WeightedFile& file : options.files) {
    faults.emplace_back(file.path.filename().string(), options.key, diagnostics);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    const data::SourceRow& row = source[used[i]];
    if (tokenised[i].fault.empty()) continue;
    faults[row.file].add(row.line, data::row_name(row), tokenised[i].fault);
  }
  for (data::RowFaults& file : faults) file.finish();
}

Result<Dataset> tokenise_files(const DatasetOptions& options, const Tokenizer& tokenizer) {
  Diagnostics diagnostics;
  const Recipe recipe = make_recipe(options, tokenizer, diagnostics);
  Dataset dataset;
  DataReport& report = dataset.report;
  Diagnostics of_files;
  EMOE_ASSIGN_OR_RETURN(const std::vector<data::SourceRow> source,
                        read_files(options, recipe.format, report, of_files));
  for (const Violation& fault : of_files.violations()) {
    diagnostics.add(fault.location, fault.field, fault.reason);
  }
  // Held-out rows are out of the files that are trained on, with which this is told.
  if (options.held_out.side != data::HeldOut::Side::eval) {
    for (const Warning& told : of_files.warnings()) diagnostics.warn(told);
  }
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  const std::vector<size_t> chosen = choose_rows(source, options, report);
  std::vector<size_t> used = chosen;  // each once
  std::ranges::sort(used);
  const auto [end, last] = std::ranges::unique(used);
  used.erase(end, last);
  dataset.probe = make_probe(first_texts(source, recipe), tokenizer);
  const std::vector<Tokenised> tokenised = tokenise_all(source, used, recipe);
  check_faults(source, used, tokenised, options, diagnostics);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  Collector collector(recipe, dataset);
  std::vector<bool> added(source.size());
  for (const size_t place : chosen) {
    const auto at = std::ranges::lower_bound(used, place) - used.begin();
    collector.add(tokenised[at], source[place], added[place]);
    added[place] = true;
  }
  for (size_t i = 0; i < chosen.size() && std::ssize(dataset.shown) < options.shown_rows; ++i) {
    const data::SourceRow& row = source[chosen[i]];
    const auto at = std::ranges::lower_bound(used, chosen[i]) - used.begin();
    ShownRow shown{.place = place_of(options.files[row.file].path, row),
                   .parts = parts_of(row, recipe),
                   .rows = tokenised[at].rows};
    if (tokenised[at].cut) {
      shown.read_bytes = bytes_within(shown.parts, recipe, std::ssize(shown.rows.front().ids));
    }
    dataset.shown.push_back(std::move(shown));
  }
  report.rows_used = std::ssize(dataset.rows);
  report.lengths = measure_lengths(dataset.rows);
  report.format = options.format;
  report.chat_template = recipe.chat == nullptr ? "" : recipe.chat->name();
  dataset.end_of_row = recipe.end_of_row();
  dataset.jinja = recipe.chat == nullptr ? "" : recipe.chat->jinja();
  dataset.template_ends = recipe.chat != nullptr && recipe.chat->writes_ends();
  collector.report_warnings(std::ssize(used), diagnostics);
  report.warnings = diagnostics.warnings();
  return dataset;
}

Status check_not_empty(const Dataset& dataset, const DatasetOptions& options) {
  if (!dataset.rows.empty()) return ok_status();
  Diagnostics diagnostics;
  const std::string file = options.files.front().path.filename().string();
  if (dataset.sources.empty()) {
    diagnostics.add(file, options.key,
                    options.held_out.side == data::HeldOut::Side::none
                        ? "no row is taken: raise the weights of the files"
                        : "data.eval_fraction leaves no row on this side");
    return diagnostics.to_status();
  }
  if (dataset.report.skipped.size() == 1 && dataset.report.skipped.contains(kNoAnswer)) {
    diagnostics.add(file, options.key,
                    absl::StrCat("none of the ", dataset.sources.size(),
                                 " rows has an answer that is to be learned: see \"train\" and "
                                 "\"weight\" of their messages, and data.answers"));
    return diagnostics.to_status();
  }
  diagnostics.add(
      file, "data.max_length",
      absl::StrCat("none of the ", dataset.sources.size(), " rows has a target token within ",
                   options.max_length, " tokens; raise data.max_length"));
  return diagnostics.to_status();
}

}  // namespace

std::vector<std::filesystem::path> DatasetOptions::paths() const {
  std::vector<std::filesystem::path> paths;
  for (const data::WeightedFile& file : files) paths.push_back(file.path);
  return paths;
}

std::string data_digest(const std::vector<std::filesystem::path>& files,
                        const std::vector<std::string>& digests) {
  if (digests.size() == 1) return digests.front();
  Sha256 hash;
  for (size_t i = 0; i < digests.size(); ++i) {
    hash.update(absl::StrCat(files[i].filename().string(), " ", digests[i], "\n"));
  }
  return hash.hex_digest();
}

Result<Dataset> load_dataset(const DatasetOptions& options, const Tokenizer& tokenizer) {
  EMOE_RETURN_IF_ERROR(check_options(options));
  std::vector<std::string> digests;
  for (const data::WeightedFile& file : options.files) {
    EMOE_ASSIGN_OR_RETURN(std::string digest, sha256_of_file(file.path, options.on_work_done));
    digests.push_back(std::move(digest));
  }
  std::filesystem::path cache;
  std::optional<Dataset> dataset;
  if (!options.cache_dir.empty()) {
    // The folder's template whatever it is found to be, and none where it cannot be read.
    const std::string jinja = read_folder_template(tokenizer.file().parent_path()).value_or("");
    cache = row_cache_file(
        options, digests,
        absl::StrCat(tokenizer.sha256(), " ", tokenizer.rules().to_text(), " ", jinja));
    dataset = read_row_cache(cache);
  }
  if (!dataset) {
    EMOE_ASSIGN_OR_RETURN(dataset, tokenise_files(options, tokenizer));
    EMOE_RETURN_IF_ERROR(check_not_empty(*dataset, options));
    if (!cache.empty()) {
      const Status written = write_row_cache(cache, *dataset);
      if (!written.ok()) {
        log_warning("cannot keep the tokenised rows: %s", std::string(written.message()));
      }
    }
  }
  DataReport& report = dataset->report;
  report.sha256 = data_digest(options.paths(), digests);
  report.file = absl::StrJoin(options.paths(), ", ", [](std::string* out, const auto& path) {
    absl::StrAppend(out, path.string());
  });
  for (size_t i = 0; i < options.files.size(); ++i) {
    report.files[i].path = options.files[i].path.string();
    report.files[i].sha256 = digests[i];
  }
  return *std::move(dataset);
}

}  // namespace emoe
