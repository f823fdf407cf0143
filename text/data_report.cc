#include "text/data_report.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe {
namespace {

using Json = nlohmann::ordered_json;

Json count_to_json(const RowCount& rows) {
  return {
      {"count", rows.count}, {"first_rows", rows.first_rows}, {"first_places", rows.first_places}};
}

RowCount count_from_json(const Json& json) {
  return {json.at("count"), json.at("first_rows"), json.at("first_places")};
}

Json files_to_json(const std::vector<FileReport>& files) {
  Json list = Json::array();
  for (const FileReport& file : files) {
    list.push_back({{"path", file.path},
                    {"sha256", file.sha256},
                    {"weight", file.weight},
                    {"rows_read", file.rows_read},
                    {"rows_chosen", file.rows_chosen}});
  }
  return list;
}

std::vector<FileReport> files_from_json(const Json& json) {
  std::vector<FileReport> files;
  for (const Json& file : json) {
    files.push_back({file.at("path"), file.at("sha256"), file.at("weight"), file.at("rows_read"),
                     file.at("rows_chosen")});
  }
  return files;
}

Json counts_to_json(const std::map<std::string, RowCount>& counts) {
  Json reasons = Json::object();
  int64_t total = 0;
  for (const auto& [reason, rows] : counts) {
    reasons[reason] = count_to_json(rows);
    total += rows.count;
  }
  return {{"count", total}, {"reasons", reasons}};
}

std::map<std::string, RowCount> counts_from_json(const Json& json) {
  std::map<std::string, RowCount> counts;
  for (const auto& [reason, rows] : json.at("reasons").items()) {
    counts[reason] = count_from_json(rows);
  }
  return counts;
}

Json lengths_to_json(const LengthReport& lengths) {
  Json bins = Json::array();
  for (const LengthReport::Bin& bin : lengths.histogram) {
    bins.push_back({{"from", bin.from}, {"to", bin.to}, {"count", bin.count}});
  }
  return {{"min", lengths.min}, {"mean", lengths.mean}, {"p50", lengths.p50},
          {"p95", lengths.p95}, {"max", lengths.max},   {"histogram", bins}};
}

Json packing_to_json(const std::optional<PackingReport>& packing) {
  if (!packing) return nullptr;
  const double efficiency = packing->computed_tokens == 0
                                ? 0.0
                                : static_cast<double>(packing->real_tokens) /
                                      static_cast<double>(packing->computed_tokens);
  return {{"packed", packing->packed},
          {"batches", packing->batches},
          {"real_tokens", packing->real_tokens},
          {"common_tokens", packing->common_tokens},
          {"shares_prefixes", packing->shares_prefixes},
          {"computed_tokens", packing->computed_tokens},
          {"efficiency", efficiency}};
}

// Calls visit(key, member) for the members whose JSON is just their value.
template <typename Report, typename Visit>
void visit_values(Report& report, const Visit& visit) {
  visit("file", report.file);
  visit("sha256", report.sha256);
  visit("format", report.format);
  visit("template", report.chat_template);
  visit("rows_read", report.rows_read);
  visit("rows_outside_fraction", report.rows_outside_fraction);
  visit("rows_on_other_side", report.rows_on_other_side);
  visit("rows_used", report.rows_used);
  visit("tokens", report.tokens);
  visit("target_tokens", report.target_tokens);
  visit("documents_split", report.documents_split);
}

Json report_to_json(const DataReport& report) {
  Json json;
  visit_values(report, [&](const char* key, const auto& value) { json[key] = value; });
  json["files"] = files_to_json(report.files);
  json["duplicates"] = count_to_json(report.duplicates);
  json["skipped"] = counts_to_json(report.skipped);
  json["truncated"] = counts_to_json(report.truncated);
  json["lengths"] = lengths_to_json(report.lengths);
  json["packing"] = packing_to_json(report.packing);
  return json;
}

}  // namespace

void RowCount::add(int64_t index, const std::string& place) {
  ++count;
  if (first_rows.size() == kFirst) return;
  first_rows.push_back(index + 1);
  first_places.push_back(place);
}

LengthReport measure_lengths(const std::vector<Row>& rows) {
  LengthReport report;
  if (rows.empty()) return report;
  std::vector<int64_t> lengths;
  for (const Row& row : rows) lengths.push_back(static_cast<int64_t>(row.ids.size()));
  std::sort(lengths.begin(), lengths.end());
  const auto rank = [&](size_t percent) {  // nearest rank: the smallest with so many at or below
    return lengths[(lengths.size() * percent + 99) / 100 - 1];
  };
  report.min = lengths.front();
  report.max = lengths.back();
  report.p50 = rank(50);
  report.p95 = rank(95);
  report.mean = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})) /
                static_cast<double>(lengths.size());
  const auto floor = [](int64_t length) {
    return static_cast<int64_t>(
        std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(length, 1))));
  };
  for (int64_t from = floor(report.min); from <= report.max; from *= 2) {
    report.histogram.push_back({.from = from, .to = 2 * from - 1});
  }
  size_t bin = 0;
  for (const int64_t length : lengths) {
    while (length > report.histogram[bin].to) ++bin;
    ++report.histogram[bin].count;
  }
  return report;
}

std::string to_json(const DataReport& report) {
  Json json = report_to_json(report);
  json["warnings"] = report.warnings;
  return json.dump();
}

std::optional<DataReport> report_from_json(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    DataReport report;
    visit_values(report, [&](const char* key, auto& value) { json.at(key).get_to(value); });
    report.files = files_from_json(json.at("files"));
    report.duplicates = count_from_json(json.at("duplicates"));
    report.skipped = counts_from_json(json.at("skipped"));
    report.truncated = counts_from_json(json.at("truncated"));
    json.at("warnings").get_to(report.warnings);
    return report;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::string reports_to_json(const DataReport* train, const DataReport* eval) {
  Json json = {{"train", nullptr}, {"eval", nullptr}};
  if (train != nullptr) json["train"] = report_to_json(*train);
  if (eval != nullptr) json["eval"] = report_to_json(*eval);
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status write_data_report(const std::filesystem::path& path, const DataReport* train,
                         const DataReport* eval) {
  return write_file_atomically(path, reports_to_json(train, eval));
}

}  // namespace emoe
