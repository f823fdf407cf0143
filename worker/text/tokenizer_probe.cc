#include "worker/text/tokenizer_probe.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "base/utf8.h"

namespace emoe::worker {
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

}  // namespace emoe::worker
