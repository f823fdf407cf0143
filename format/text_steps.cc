#include "format/text_steps.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <utf8proc.h>

#include "base/check.h"

namespace emoe {
namespace {

using nlohmann::json;

// GPT-2's, where a ByteLevel step has use_regex.
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string string_of(const json& object, const char* name) {
  const json value = object.is_object() ? object.value(name, json()) : json();
  return value.is_string() ? value.get<std::string>() : "";
}

bool flag_of(const json& object, const char* name, bool fallback) {
  const json value = object.value(name, json());
  return value.is_boolean() ? value.get<bool>() : fallback;
}

// {"String": "…"} or {"Regex": "…"}.
std::optional<TextPattern> read_pattern(const json& object, const std::string& key,
                                        Diagnostics& problems) {
  const json pattern = object.value("pattern", json());
  if (const std::string text = string_of(pattern, "String"); !text.empty()) {
    return TextPattern::literal(text);
  }
  const std::string expression = string_of(pattern, "Regex");
  if (expression.empty()) {
    problems.add(key + ".pattern", "is neither a String nor a Regex");
    return std::nullopt;
  }
  Result<TextPattern> compiled = TextPattern::regex(expression);
  if (compiled.ok()) return std::move(*compiled);
  problems.add(key + ".pattern", std::string(compiled.status().message()));
  return std::nullopt;
}

// Calls each(step, key) for a step or those of a Sequence, whose list has this name.
template <typename Each>
void for_steps(const json& value, const char* list, const std::string& key, Diagnostics& problems,
               const Each& each) {
  if (value.is_null()) return;
  if (string_of(value, "type") != "Sequence") return each(value, key);
  const json steps = value.value(list, json::array());
  if (!steps.is_array()) return problems.add(absl::StrCat(key, ".", list), "is no list");
  for (size_t i = 0; i < steps.size(); ++i) {
    for_steps(steps[i], list, absl::StrCat(key, ".", list, "[", i, "]"), problems, each);
  }
}

void refuse(const json& value, const std::string& key, const char* known, Diagnostics& problems) {
  problems.add(key, absl::StrCat("is of type \"", string_of(value, "type"),
                                 "\", which is not supported; known are ", known));
}

std::string normalized(const std::string& text, int form) {
  // A trailing consonant of Hangul that is none. Nothing composes with it, but utf8proc (until 2.8)
  // loses it.
  constexpr char kNoConsonant[] = "\u11A7";
  std::string result;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(kNoConsonant, at), text.size());
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                     static_cast<utf8proc_ssize_t>(end - at), &mapped,
                     static_cast<utf8proc_option_t>(form | UTF8PROC_STABLE));
    const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
    EMOE_CHECK(size >= 0, utf8proc_errmsg(size));  // valid UTF-8 has all forms
    result.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
    if (end < text.size()) result += kNoConsonant;
    at = end + std::char_traits<char>::length(kNoConsonant);
  }
  return result;
}

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

// The text without white space at the edges that are asked for.
std::string strip(const std::string& text, bool left, bool right) {
  const size_t end = right ? without_trailing_space(text) : text.size();
  const size_t begin = left ? std::min(leading_space(text), end) : 0;
  return text.substr(begin, end - begin);
}

}  // namespace

Normalizer Normalizer::read(const json& value, const std::string& key, Diagnostics& problems) {
  Normalizer normalizer;
  for_steps(value, "normalizers", key, problems,
            [&](const json& step, const std::string& step_key) {
              normalizer.add(step, step_key, problems);
            });
  return normalizer;
}

void Normalizer::add(const json& value, const std::string& key, Diagnostics& problems) {
  static const std::map<std::string, Form> kForms{
      {"NFC", Form::nfc}, {"NFD", Form::nfd}, {"NFKC", Form::nfkc}, {"NFKD", Form::nfkd}};
  const std::string type = string_of(value, "type");
  if (const auto form = kForms.find(type); form != kForms.end()) {
    steps_.emplace_back(form->second);
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{string_of(value, "prepend")});
  } else if (type == "Replace") {
    if (auto pattern = read_pattern(value, key, problems)) {
      steps_.emplace_back(Replace{std::move(*pattern), string_of(value, "content")});
    }
  } else if (type == "Strip") {
    steps_.emplace_back(
        Strip{flag_of(value, "strip_left", true), flag_of(value, "strip_right", true)});
  } else {
    refuse(value, key, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip and Sequence", problems);
  }
}

std::string Normalizer::run(const Step& step, std::string text) {
  if (const auto* form = std::get_if<Form>(&step)) {
    if (is_ascii(text)) return text;
    const bool compatible = *form == Form::nfkc || *form == Form::nfkd;
    const bool composed = *form == Form::nfc || *form == Form::nfkc;
    return normalized(text, (compatible ? UTF8PROC_COMPAT : 0) |
                                (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE));
  }
  if (const auto* prepend = std::get_if<Prepend>(&step)) {
    return text.empty() ? text : prepend->text + text;
  }
  if (const auto* edges = std::get_if<Strip>(&step)) return strip(text, edges->left, edges->right);
  const auto& replace = std::get<Replace>(step);
  std::string result;
  size_t done = 0;
  replace.pattern.for_matches(text, [&](size_t begin, size_t end) {
    result.append(text, done, begin - done);
    result += replace.content;
    done = end;
  });
  return result.append(text, done);
}

std::string Normalizer::apply(std::string text) const {
  for (const Step& step : steps_) text = run(step, std::move(text));
  return text;
}

PreTokenizer PreTokenizer::read(const json& value, const std::string& key, Diagnostics& problems) {
  PreTokenizer result;
  for_steps(
      value, "pretokenizers", key, problems,
      [&](const json& step, const std::string& step_key) { result.add(step, step_key, problems); });
  return result;
}

void PreTokenizer::add(const json& value, const std::string& key, Diagnostics& problems) {
  const std::string type = string_of(value, "type");
  if (byte_level_) {
    problems.add(key, "stands behind a ByteLevel step, which must be the last");
  } else if (type == "Split") {
    add_split(value, key, problems);
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    if (flag_of(value, "add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
    if (flag_of(value, "use_regex", true)) {
      steps_.emplace_back(Split{.pattern = TextPattern::regex(kGpt2).value()});
    }
  } else if (type == "Metaspace") {
    add_metaspace(value, key, problems);
  } else if (type == "Digits") {
    const bool single = flag_of(value, "individual_digits", false);
    steps_.emplace_back(
        Split{.pattern = TextPattern::regex(single ? "\\p{N}" : "\\p{N}+").value()});
  } else {
    refuse(value, key, "Split, ByteLevel, Metaspace, Digits and Sequence", problems);
  }
}

void PreTokenizer::add_split(const json& value, const std::string& key, Diagnostics& problems) {
  static const std::map<std::string, Behavior> kBehaviors{
      {"Removed", Behavior::removed},
      {"Isolated", Behavior::isolated},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
      {"Contiguous", Behavior::contiguous}};
  const std::string name = string_of(value, "behavior");
  const auto behavior = kBehaviors.find(name);
  if (behavior == kBehaviors.end()) {
    return problems.add(key + ".behavior", absl::StrCat("is \"", name, "\", which is not known"));
  }
  auto pattern = read_pattern(value, key, problems);
  if (!pattern) return;
  steps_.emplace_back(Split{.pattern = std::move(*pattern),
                            .behavior = behavior->second,
                            .invert = flag_of(value, "invert", false)});
}

void PreTokenizer::add_metaspace(const json& value, const std::string& key, Diagnostics& problems) {
  using Prepend = Metaspace::Prepend;
  static const std::map<std::string, Prepend> kSchemes{
      {"always", Prepend::always}, {"first", Prepend::first}, {"never", Prepend::never}};
  Metaspace metaspace;
  metaspace.replacement = string_of(value, "replacement");
  if (metaspace.replacement.empty()) {
    return problems.add(key + ".replacement", "is missing");
  }
  // Older files say add_prefix_space instead.
  std::string scheme = string_of(value, "prepend_scheme");
  if (scheme.empty()) scheme = flag_of(value, "add_prefix_space", true) ? "always" : "never";
  const auto found = kSchemes.find(scheme);
  if (found == kSchemes.end()) {
    return problems.add(key + ".prepend_scheme",
                        absl::StrCat("is \"", scheme, "\"; known are always, first and never"));
  }
  metaspace.prepend = found->second;
  const bool splits = flag_of(value, "split", true);
  TextPattern pattern = TextPattern::literal(metaspace.replacement);
  steps_.emplace_back(std::move(metaspace));
  if (splits) {
    steps_.emplace_back(
        Split{.pattern = std::move(pattern), .behavior = Behavior::merged_with_next});
  }
}

// The parts of a text that match (or with `invert` do not) and those between, put together as the
// behaviour says.
void PreTokenizer::cut(const Split& split, std::string_view text, const Visit& visit) {
  struct Part {
    size_t begin = 0;
    size_t end = 0;
    bool match = false;
  };
  const Behavior behavior = split.behavior;
  Part held;  // of the words that grow: the last one, not yet given away
  const auto flush = [&] {
    if (held.end > held.begin) visit(text.substr(held.begin, held.end - held.begin));
    held = {held.end, held.end, false};
  };
  const auto take = [&](Part part) {
    if (part.begin == part.end) return;
    const bool empty = held.begin == held.end;
    bool grows = false;
    if (behavior == Behavior::contiguous) grows = held.match == part.match;
    if (behavior == Behavior::merged_with_previous) grows = part.match && !held.match;
    if (behavior == Behavior::merged_with_next) grows = held.match && !part.match;
    if (empty || !grows) {
      flush();
      if (behavior == Behavior::removed && part.match) {
        held = {part.end, part.end, false};
        return;
      }
      held = part;
      return;
    }
    held.end = part.end;
    // What two parts became takes no third one.
    if (behavior == Behavior::merged_with_previous) held.match = true;
    if (behavior == Behavior::merged_with_next) held.match = false;
  };
  size_t done = 0;
  split.pattern.for_matches(text, [&](size_t begin, size_t end) {
    take({done, begin, split.invert});
    take({begin, end, !split.invert});
    done = end;
  });
  take({done, text.size(), split.invert});
  flush();
}

void PreTokenizer::run(size_t step, std::string_view stretch, bool first,
                       const Visit& visit) const {
  if (stretch.empty()) return;
  if (step == steps_.size()) return visit(stretch);
  if (const auto* split = std::get_if<Split>(&steps_[step])) {
    return cut(*split, stretch, [&](std::string_view part) {
      run(step + 1, part, first && part.data() == stretch.data(), visit);
    });
  }
  if (const auto* metaspace = std::get_if<Metaspace>(&steps_[step])) {
    std::string text = absl::StrReplaceAll(std::string(stretch), {{" ", metaspace->replacement}});
    const bool wanted = metaspace->prepend == Metaspace::Prepend::always ||
                        (metaspace->prepend == Metaspace::Prepend::first && first);
    if (wanted && !text.starts_with(metaspace->replacement)) {
      text.insert(0, metaspace->replacement);
    }
    return run(step + 1, text, first, visit);
  }
  if (stretch.front() == ' ') return run(step + 1, stretch, first, visit);
  run(step + 1, " " + std::string(stretch), first, visit);
}

void PreTokenizer::split(std::string_view stretch, bool first, const Visit& visit) const {
  run(0, stretch, first, visit);
}

}  // namespace emoe
