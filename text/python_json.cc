#include "text/python_json.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include <absl/strings/str_cat.h>

namespace emoe {
namespace {

using nlohmann::ordered_json;

// repr() of Python: the shortest digits that give the number back; from 1e16, and below 1e-4, with an exponent.
std::string python_float(double value) {
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::scientific);
  const std::string_view text(buffer.data(), end.ptr - buffer.data());
  const size_t mark = text.find('e');
  if (mark == std::string_view::npos) return std::string(text);  // not finite
  const int exponent = std::atoi(std::string(text.substr(mark + 1)).c_str());
  std::string digits(text.substr(0, mark));
  const bool negative = digits.starts_with('-');
  std::erase_if(digits, [](char c) { return c == '.' || c == '-'; });
  const auto count = static_cast<int>(digits.size());
  std::string number;
  if (exponent >= 16 || exponent < -4) {
    number = digits.substr(0, 1);
    if (count > 1) absl::StrAppend(&number, ".", digits.substr(1));
    const int size = std::abs(exponent);
    absl::StrAppend(&number, exponent < 0 ? "e-" : "e+", size < 10 ? "0" : "", size);
  } else if (exponent < 0) {
    number = absl::StrCat("0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  } else if (count <= exponent + 1) {
    number =
        absl::StrCat(digits, std::string(static_cast<size_t>(exponent + 1 - count), '0'), ".0");
  } else {
    number = absl::StrCat(digits.substr(0, exponent + 1), ".", digits.substr(exponent + 1));
  }
  return negative ? "-" + number : number;
}

class Writer {
 public:
  explicit Writer(int indent) : indent_(indent) {}

  std::string write(const ordered_json& value) {
    put(value, 0);
    return std::move(text_);
  }

 private:
  void new_line(int level) {
    if (indent_ < 0) return;
    text_ += '\n';
    text_.append(static_cast<size_t>(indent_) * level, ' ');
  }

  void put(const ordered_json& value, int level) {
    if (value.is_number_float()) {
      text_ += python_float(value.get<double>());
    } else if ((!value.is_array() && !value.is_object()) || value.empty()) {
      text_ += value.dump();
    } else {
      put_members(value, level + 1);
    }
  }

  void put_members(const ordered_json& value, int level) {
    text_ += value.is_object() ? '{' : '[';
    bool first = true;
    for (const auto& [key, member] : value.items()) {
      if (!first) text_ += indent_ < 0 ? ", " : ",";
      first = false;
      new_line(level);
      if (value.is_object()) absl::StrAppend(&text_, ordered_json(key).dump(), ": ");
      put(member, level);
    }
    new_line(level - 1);
    text_ += value.is_object() ? '}' : ']';
  }

  int indent_;
  std::string text_;
};

}  // namespace

std::string python_json(const ordered_json& value, int indent) {
  return Writer(indent).write(value);
}

}  // namespace emoe
