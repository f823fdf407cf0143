#include "config/scalar.h"

#include <charconv>
#include <cmath>
#include <limits>

#include <yaml-cpp/yaml.h>

namespace emoe::config {
namespace {

constexpr char kDigits[] = "0123456789";

size_t skip_sign(const std::string& text) {
  return !text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0;
}

bool is_integer(const std::string& text) {
  const size_t begin = skip_sign(text);
  return begin < text.size() && text.find_first_not_of(kDigits, begin) == std::string::npos;
}

// 0x1F and 0o17, without a sign.
bool is_prefixed_integer(const std::string& text) {
  if (text.size() < 3 || text[0] != '0') return false;
  const char* digits = nullptr;
  if (text[1] == 'x') digits = "0123456789abcdefABCDEF";
  if (text[1] == 'o') digits = "01234567";
  return digits != nullptr && text.find_first_not_of(digits, 2) == std::string::npos;
}

bool is_real(const std::string& text) {
  const std::string rest = text.substr(skip_sign(text));
  if (rest == ".inf" || rest == ".Inf" || rest == ".INF") return true;
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return true;
  if (rest.find_first_of("0123456789.") != 0) return false;  // from_chars knows "inf" and "-1"
  double number = 0.0;
  const char* end = rest.data() + rest.size();
  const auto [stop, error] = std::from_chars(rest.data(), end, number);
  return stop == end && error != std::errc::invalid_argument;
}

std::string shortened(const std::string& text) {
  constexpr size_t kMost = 60;
  std::string out = text.size() <= kMost ? text : text.substr(0, kMost) + "…";
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return out;
}

}  // namespace

ScalarKind classify_plain(const std::string& value) {
  if (value.empty() || value == "~" || value == "null" || value == "Null" || value == "NULL") {
    return ScalarKind::null;
  }
  for (const char* word : {"true", "True", "TRUE", "false", "False", "FALSE"}) {
    if (value == word) return ScalarKind::boolean;
  }
  if (is_integer(value) || is_prefixed_integer(value)) return ScalarKind::integer;
  return is_real(value) ? ScalarKind::real : ScalarKind::text;
}

std::optional<Scalar> classify_scalar(const YAML::Node& node) {
  if (node.IsNull()) return Scalar{ScalarKind::null, "", false};
  if (!node.IsScalar()) return std::nullopt;
  const std::string& tag = node.Tag();
  if (tag == "!" || tag == "tag:yaml.org,2002:str") {
    return Scalar{ScalarKind::text, node.Scalar(), true};
  }
  if (tag != "?" && !tag.empty()) return std::nullopt;
  return Scalar{classify_plain(node.Scalar()), node.Scalar(), false};
}

std::string describe(const YAML::Node& node) {
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a mapping";
  const auto scalar = classify_scalar(node);
  if (!scalar) return node.IsScalar() ? "a value with the tag " + shortened(node.Tag()) : "nothing";
  switch (scalar->kind) {
    case ScalarKind::null:
      return "nothing";
    case ScalarKind::boolean:
      return "the truth value " + scalar->value;
    case ScalarKind::integer:
    case ScalarKind::real:
      return "the number " + shortened(scalar->value);
    case ScalarKind::text:
      break;
  }
  return "the text \"" + shortened(scalar->value) + "\"";
}

std::optional<int64_t> to_int64(const std::string& value) {
  std::string digits = value;
  int base = 10;
  if (is_prefixed_integer(value)) {
    base = value[1] == 'x' ? 16 : 8;
    digits = value.substr(2);
  } else if (!value.empty() && value[0] == '+') {
    digits = value.substr(1);
  }
  int64_t number = 0;
  const char* end = digits.data() + digits.size();
  const auto [rest, error] = std::from_chars(digits.data(), end, number, base);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::optional<double> to_double(const std::string& value) {
  const std::string text = !value.empty() && value[0] == '+' ? value.substr(1) : value;
  if (text.size() >= 4 && text.size() <= 5 && is_real(text)) {
    if (text.find_first_of("nN") == 1) return std::numeric_limits<double>::quiet_NaN();
    if (text.find_first_of("iI") == 1) return std::numeric_limits<double>::infinity();
    if (text.find_first_of("iI") == 2) return -std::numeric_limits<double>::infinity();
  }
  double number = 0.0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::string shortest(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  return error == std::errc() ? std::string(buffer, end) : "0";
}

}  // namespace emoe::config
