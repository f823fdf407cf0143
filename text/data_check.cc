#include "text/data_check.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "data/read_rows.h"

namespace emoe {
namespace {

constexpr size_t kSampledBytes = 2 << 20;

// Looks at the rows of one data set, file after file.
class RowSampler {
 public:
  // `most`: of the good rows of each file, how many count; empty: all.
  RowSampler(const DatasetOptions& options, const Recipe* recipe, std::vector<int64_t> most,
             Diagnostics& diagnostics)
      : options_(options), recipe_(recipe), most_(std::move(most)), diagnostics_(diagnostics) {}

  void read(const data::RowFormat& format) {
    for (size_t number = 0; number < options_.files.size(); ++number) {
      const std::filesystem::path& path = options_.files[number].path;
      data::RowFaults faults(path.filename().string(), options_.key, diagnostics_);
      const data::DataFile file{.path = path,
                                .format = format,
                                .key = options_.key,
                                .fields = options_.fields,
                                .number = static_cast<int64_t>(number),
                                .several = options_.files.size() > 1};
      int64_t good = 0;
      const auto rows = data::read_rows(file, diagnostics_, [&](data::SourceRow&& row) {
        if (most_.empty() || good < most_[number]) look(row, data::place_of(path, row), faults);
        ++good;
      });
      if (!rows.ok()) diagnostics_.add(options_.key, std::string(rows.status().message()));
      faults.finish();
    }
  }

  DataCheck finish() {
    const bool all = check_.sampled == std::ssize(check_.rows);
    warnings_.report(options_.key, std::ssize(check_.rows), diagnostics_);
    Diagnostics sample;
    sampled_.report(options_.key, check_.sampled, sample);
    for (Warning warning : sample.warnings()) {
      if (!all) {
        const std::string total = absl::StrCat(" of ", check_.sampled, " rows");
        warning.text = absl::StrReplaceAll(
            warning.text, {{total, absl::StrCat(" of the first ", check_.sampled, " rows")}});
      }
      diagnostics_.warn(std::move(warning));
    }
    return std::move(check_);
  }

 private:
  void look(const data::SourceRow& row, const std::string& place, data::RowFaults& faults) {
    const data::RowKey key = data::key_of(row);
    if (!seen_.insert(key.content).second) ++check_.duplicates;
    check_.rows.push_back(key);
    if (recipe_ == nullptr) return;
    for (const std::string& token : data::tokens_as_text(row, recipe_->tokenizer)) {
      data::warn_of_token(token, place, warnings_);
    }
    if (recipe_->format.has_messages() && !look_at_messages(row, place, faults)) return;
    if (check_.sampled < kSampledRows && bytes_ < kSampledBytes) sample(row, place);
  }

  // False for a row that no text can be made of.
  bool look_at_messages(const data::SourceRow& row, const std::string& place,
                        data::RowFaults& faults) {
    if (recipe_->chat == nullptr) return false;
    const auto messages = messages_to_train(row, options_);
    if (data::has_empty_answers(messages)) data::warn_of_empty_answers(place, warnings_);
    const auto parts = recipe_->chat->render(messages);
    if (!parts.ok()) {
      faults.add(row.line, data::row_name(row), std::string(parts.status().message()));
    }
    return parts.ok();
  }

  void sample(const data::SourceRow& row, const std::string& place) {
    Tokenised tokenised = tokenise_row(row, *recipe_);
    ++check_.sampled;
    bytes_ += row.text.size();
    for (const data::Message& message : row.messages) bytes_ += message.content.size();
    check_.longest = std::max(check_.longest, tokenised.whole_length);
    const std::string limit = absl::StrCat("data.max_length ", options_.max_length, " tokens");
    bool dropped = false;
    for (Row& made : tokenised.rows) {
      ++check_.made;
      check_.tokens += static_cast<int64_t>(made.ids.size());
      const int64_t targets = made.target_tokens();
      check_.target_tokens += targets;
      dropped = dropped || targets == 0;
      if (targets > 0) check_.sample.push_back(std::move(made));
    }
    if (dropped && !tokenised.learns_nothing) {
      sampled_.add(warning::kRowsDropped, "", "dropped: nothing to learn within " + limit, place);
    } else if (tokenised.cut) {
      ++check_.cut;
      sampled_.add(warning::kRowsCut, "", "cut at " + limit, place);
    }
  }

  const DatasetOptions& options_;
  const Recipe* recipe_;
  const std::vector<int64_t> most_;
  Diagnostics& diagnostics_;
  DataCheck check_;
  data::RowWarnings warnings_;  // of all rows
  data::RowWarnings sampled_;   // of the sample
  std::set<uint64_t> seen_;
  size_t bytes_ = 0;  // of text in the sample
};

// How many leading rows of each file count. That is known behind the last one, so it takes a pass of its
// own; what is wrong with the files, the next pass says.
std::vector<int64_t> leading_rows(const DatasetOptions& options, const data::RowFormat& format) {
  if (!(options.fraction > 0.0 && options.fraction < 1.0)) return {};
  Diagnostics said_later;
  RowSampler all(options, nullptr, {}, said_later);
  all.read(format);
  std::vector<int64_t> rows(options.files.size());
  for (const data::RowKey& row : all.finish().rows) ++rows[static_cast<size_t>(row.file)];
  for (int64_t& count : rows) {
    count = static_cast<int64_t>(std::ceil(options.fraction * static_cast<double>(count)));
  }
  return rows;
}

}  // namespace

std::optional<DataCheck> check_data(const DatasetOptions& options, const Recipe* recipe,
                                    Diagnostics& diagnostics) {
  const data::RowFormat* format = data::find_row_format(options.format);
  if (format == nullptr) return std::nullopt;  // reported as a value of data.format
  const size_t before = diagnostics.size();
  RowSampler sampler(options, recipe, leading_rows(options, *format), diagnostics);
  sampler.read(*format);
  DataCheck check = sampler.finish();
  return diagnostics.size() == before ? std::optional(std::move(check)) : std::nullopt;
}

}  // namespace emoe
