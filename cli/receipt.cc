#include "cli/receipt.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "cli/format.h"
#include "cli/table.h"

namespace emoe::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string share(int64_t part, int64_t whole) {
  if (whole == 0) return "0 %";
  return absl::StrFormat("%.3g %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

// "12 (longer than max_length): train.jsonl:4, train.jsonl:9, …"
std::string counts_text(const std::map<std::string, RowCount>& counts) {
  std::vector<std::string> lines;
  for (const auto& [reason, rows] : counts) {
    const bool more = rows.count > std::ssize(rows.first_places);
    lines.push_back(absl::StrCat(rows.count, " (", reason,
                                 "): ", absl::StrJoin(rows.first_places, ", "), more ? ", …" : ""));
  }
  return lines.empty() ? "none" : absl::StrJoin(lines, "; ");
}

std::string files_text(const DataReport& report) {
  std::vector<std::string> files;
  for (const FileReport& file : report.files) {
    std::string text = absl::StrCat(file.path, " (", file.rows_read, " rows");
    if (file.weight != 1.0) {
      absl::StrAppend(&text, ", weight ", human_number(file.weight), ": ", file.rows_chosen);
    }
    files.push_back(text + ")");
  }
  return absl::StrJoin(files, ", ");
}

std::string packing_text(const PackingReport& packing) {
  const std::string kind = packing.packed ? "side by side" : "padded";
  return absl::StrCat(
      packing.batches, " forward passes an epoch, ", kind, ", ",
      share(std::min(packing.real_tokens, packing.computed_tokens), packing.computed_tokens),
      " of the computed tokens are of rows",
      packing.shares_prefixes && packing.common_tokens > 0
          ? absl::StrCat("; ", packing.common_tokens,
                         " tokens of common beginnings are computed once")
          : "");
}

std::string dataset_text(const Dataset& dataset, int width) {
  const DataReport& report = dataset.report;
  const LengthReport& lengths = report.lengths;
  KeyValues values;
  values.add("files", files_text(report));
  values.add("format", report.format);
  values.add("template", report.chat_template);
  values.add("rows read", absl::StrCat(report.rows_read));
  if (report.rows_outside_fraction > 0) {
    values.add("left out", absl::StrCat(report.rows_outside_fraction, " by data.fraction"));
  }
  if (report.rows_on_other_side > 0) {
    values.add("other side", absl::StrCat(report.rows_on_other_side, " by data.eval_fraction"));
  }
  values.add("rows kept", absl::StrCat(report.rows_used));
  values.add("rows cut", counts_text(report.truncated));
  values.add("rows dropped", counts_text(report.skipped));
  if (report.documents_split > 0) {
    values.add("documents split", absl::StrCat(report.documents_split, ", nothing of them lost"));
  }
  values.add(
      "duplicates",
      counts_text(report.duplicates.count == 0
                      ? std::map<std::string, RowCount>()
                      : std::map<std::string, RowCount>{{"as an earlier row", report.duplicates}}));
  values.add("tokens", absl::StrCat(report.tokens, ", ", report.target_tokens, " to learn (",
                                    share(report.target_tokens, report.tokens), ")"));
  values.add("lengths",
             absl::StrFormat("%d to %d, mean %.1f, median %d, 95 %% up to %d", lengths.min,
                             lengths.max, lengths.mean, lengths.p50, lengths.p95));
  if (report.packing) values.add("packing", packing_text(*report.packing));
  return values.render(width);
}

std::string row_text(const ShownRow& row, bool colour) {
  std::string text = row.place + "\n";
  bool trained = false;
  const auto turn = [&](bool to) {
    if (to == trained) return;
    trained = to;
    text += colour ? (to ? "\x1b[32m" : "\x1b[0m") : (to ? "⟦" : "⟧");
  };
  size_t begin = 0;
  for (const TextPart& part : row.parts) {
    const size_t left = row.read_bytes.value_or(std::string::npos);
    const std::string_view whole = part.text;
    const std::string_view read = whole.substr(0, left > begin ? left - begin : 0);
    const bool cut_here = read.size() < whole.size() && left >= begin;
    begin += whole.size();
    if (whole.empty()) continue;
    if (!read.empty()) turn(part.trained);
    text += printable_lines(std::string(read));
    if (read.size() == whole.size()) continue;
    turn(false);
    absl::StrAppend(&text, cut_here ? "✂" : "",
                    printable_lines(std::string(whole.substr(read.size()))));
  }
  turn(false);
  int64_t tokens = 0;
  int64_t targets = 0;
  for (const Row& made : row.rows) {
    tokens += std::ssize(made.ids);
    targets += made.target_tokens();
  }
  return absl::StrCat(text, text.ends_with('\n') ? "" : "\n", "(", tokens, " tokens, ", targets,
                      " to learn: ", colour ? "green" : "in ⟦ ⟧",
                      row.read_bytes ? "; cut at ✂, the rest is not read" : "", ")\n");
}

Json row_json(const ShownRow& row) {
  std::string text;
  for (const TextPart& part : row.parts) text += part.text;
  Json made = Json::array();
  for (const Row& each : row.rows) {
    Json spans = Json::array();
    for (const TokenSpan& span : each.targets) spans.push_back({span.begin, span.end});
    made.push_back({{"ids", each.ids}, {"targets", spans}});
  }
  return {{"place", row.place}, {"text", text}, {"rows", made}};
}

}  // namespace

std::string receipt_text(const Receipt& receipt, int width, bool colour) {
  std::string text = absl::StrCat("tokenizer: ", printable(receipt.tokenizer), "\n");
  for (const auto& [name, dataset] :
       {std::pair("train", &receipt.train), std::pair("eval", &receipt.eval)}) {
    if (*dataset) absl::StrAppend(&text, "\n", name, "\n", dataset_text(**dataset, width));
  }
  if (!receipt.warnings.empty()) {
    text += "\nwarnings\n";
    for (const Warning& warning : receipt.warnings) {
      absl::StrAppend(&text, warning.code, ": ", printable(to_string(warning)), "\n");
    }
  }
  const auto& shown = receipt.train ? receipt.train : receipt.eval;
  for (const ShownRow& row : shown->shown) absl::StrAppend(&text, "\n", row_text(row, colour));
  return text;
}

std::string receipt_json(const Receipt& receipt) {
  Json json = Json::parse(reports_to_json(receipt.train ? &receipt.train->report : nullptr,
                                          receipt.eval ? &receipt.eval->report : nullptr));
  json["tokenizer"] = receipt.tokenizer;
  json["warnings"] = receipt.warnings;
  json["rows"] = Json::array();
  const auto& shown = receipt.train ? receipt.train : receipt.eval;
  for (const ShownRow& row : shown->shown) json["rows"].push_back(row_json(row));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace emoe::cli
