#include "text/tokenizer_probe.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "base/input_file.h"
#include "base/utf8.h"

namespace emoe {
namespace {

constexpr size_t kTexts = 4;
constexpr size_t kTokens = 8;
constexpr size_t kMaxBytes = 2048;  // of a text

std::string front_of(const std::string& text) {
  std::string front = shorten_utf8(text, kMaxBytes);
  if (front.size() > text.size() || text.compare(0, front.size(), front) != 0) {
    front.resize(front.size() - std::string_view("\u2026").size());  // what it puts behind a cut
  }
  return front;
}

}  // namespace

std::vector<ProbeText> make_probe(const std::vector<std::string>& texts,
                                  const Tokenizer& tokenizer) {
  std::vector<ProbeText> probe;
  const auto add = [&](const std::string& text) {
    probe.push_back({text, tokenizer.tokenize(text)});
  };
  for (size_t i = 0; i < std::min(texts.size(), kTexts); ++i) add(front_of(texts[i]));
  for (const char* text :
       {"Once upon a time", "  two spaces", "a\n\n\tb ", "caf\u00e9 \U0001F600"}) {
    add(text);
  }
  const std::vector<AddedToken>& added = tokenizer.rules().added;
  for (size_t i = 0; i < std::min(added.size(), kTokens); ++i) {
    add(absl::StrCat(added[i].content, "a ", added[i].content, " b", added[i].content));
  }
  return probe;
}

std::optional<Warning> tokenizer_choice(const Tokenizer& tokenizer) {
  const std::filesystem::path& file = tokenizer.file();
  const std::filesystem::path other = file.parent_path() / "tokenizer.json";
  if (file.filename() != "tokenizer.model" || !has_entry(other)) return std::nullopt;
  const auto say = [&](const std::string& what) {
    return Warning{.code = warning::kDefaultDiffers,
                   .text = absl::StrCat("tokenizer.model counts, and the tokenizer.json beside it ",
                                        what, ": remove the one that is not meant"),
                   .where = file.parent_path().string()};
  };
  const auto second = load_tokenizer(other);
  if (!second.ok()) {
    const std::string why(second.status().message());
    return say(absl::StrCat("cannot be compared (", why.substr(0, why.find('\n')), ")"));
  }
  const std::vector<std::string> texts{
      "The quick brown fox can't jump 12345 times.\n\nfor (int i = 0; i < n; ++i) {\n\treturn;\n}",
      "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 e\u0301 \u00e9 \U0001F468\u200D\U0001F469"};
  for (const ProbeText& entry : make_probe(texts, tokenizer)) {
    const std::vector<int32_t> ids = (*second)->tokenize(entry.text);
    if (ids == entry.ids) continue;
    return say(absl::StrCat("disagrees: it reads \"", shorten_utf8(entry.text, 40), "\" as ",
                            absl::StrJoin(ids, " "), ", not ", absl::StrJoin(entry.ids, " ")));
  }
  return std::nullopt;
}

std::string to_json(const std::vector<ProbeText>& probe) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ProbeText& entry : probe) list.push_back({{"text", entry.text}, {"ids", entry.ids}});
  return list.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::vector<ProbeText> probe_from_json(const std::string& text) {
  std::vector<ProbeText> probe;
  try {
    for (const auto& entry : nlohmann::json::parse(text)) {
      probe.push_back({entry.at("text"), entry.at("ids").get<std::vector<int32_t>>()});
    }
  } catch (const nlohmann::json::exception&) {
    probe.clear();
  }
  return probe;
}

std::vector<std::string> check_probe(const std::vector<ProbeText>& probe,
                                     const std::filesystem::path& model) {
  const auto tokenizer = load_tokenizer(model);
  if (!tokenizer.ok()) return {std::string(tokenizer.status().message())};
  std::vector<std::string> problems;
  for (const ProbeText& entry : probe) {
    const std::vector<int32_t> ids = (*tokenizer)->tokenize(entry.text);
    if (ids == entry.ids) continue;
    problems.push_back(absl::StrCat("the written tokenizer reads \"", shorten_utf8(entry.text, 60),
                                    "\" as ", absl::StrJoin(ids, " "), ", in training it was ",
                                    absl::StrJoin(entry.ids, " ")));
  }
  return problems;
}

}  // namespace emoe
