#include "base/json_parsing.h"

#include <algorithm>
#include <array>

#include <absl/strings/str_format.h>

#include "base/utf8.h"

namespace emoe {
namespace {

using namespace std::string_view_literals;

constexpr char kPython[] = "it is written as Python prints it; json.dumps() writes JSON";
constexpr char kNoNumber[] =
    "it has a number that is none (NaN, Infinity): write null, or a number";
constexpr char kComment[] = "it has a comment, which JSON has not";

struct Complaint {
  std::string_view text;
  const char* fault;
};
// What stands where the parser stopped.
constexpr std::array<Complaint, 10> kKnown{{{"NaN"sv, kNoNumber},
                                            {"Infinity"sv, kNoNumber},
                                            {"inf"sv, kNoNumber},
                                            {"None"sv, kPython},
                                            {"True"sv, kPython},
                                            {"False"sv, kPython},
                                            {"'"sv, kPython},
                                            {"//"sv, kComment},
                                            {"/*"sv, kComment},
                                            {"#"sv, kComment}}};

// Where the parser stopped, from the character on that it did not want.
std::string_view stop_of(const nlohmann::json::exception& error, std::string_view text) {
  const auto* parse = dynamic_cast<const nlohmann::json::parse_error*>(&error);
  if (parse == nullptr || parse->byte == 0 || parse->byte > text.size()) return "";
  return text.substr(parse->byte - 1);
}

// The text of the parser's error without its class and the position.
std::string parsers_words(const nlohmann::json::exception& error) {
  const std::string what = error.what();
  const size_t reason = what.find(" - ");
  if (reason != std::string::npos) return what.substr(reason + 3);
  const size_t end = what.find("] ");
  return end == std::string::npos ? what : what.substr(end + 2);
}

}  // namespace

bool is_cut_off(const nlohmann::json::exception& error) {
  const std::string_view what = error.what();
  return what.find("unexpected end of input") != std::string_view::npos ||
         what.find("missing closing quote") != std::string_view::npos;
}

int64_t json_fault_line(const nlohmann::json::exception& error, std::string_view text) {
  const std::string_view stop = stop_of(error, text);
  if (stop.empty()) return 0;
  const std::string_view before = text.substr(0, text.size() - stop.size());
  return 1 + std::ranges::count(before, '\n');
}

std::string json_fault(const nlohmann::json::exception& error, std::string_view text) {
  const std::string words = parsers_words(error);
  if (words.starts_with("invalid string")) return words;
  const std::string_view stop = stop_of(error, text);
  for (const Complaint& known : kKnown) {
    if (stop.starts_with(known.text)) return known.fault;
  }
  if (words.find("expected end of input") != std::string::npos && stop.starts_with('{')) {
    return "a second object follows the first";
  }
  if (stop.starts_with('}') || stop.starts_with(']')) {
    const size_t before = text.substr(0, text.size() - stop.size()).find_last_not_of(" \t\r\n");
    if (before != std::string_view::npos && text[before] == ',') {
      return absl::StrFormat("a comma stands before the '%c'", stop.front());
    }
  }
  const Utf8Character odd = first_character(stop);
  if (odd.bytes > 1) {
    return absl::StrFormat("U+%04X (%s) stands outside its texts", odd.code,
                           std::string(stop.substr(0, odd.bytes)));
  }
  return words;
}

}  // namespace emoe
