#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "format/text_pattern.h"

namespace emoe {

// What a tokenizer.json does to a text before its model sees words: "normalizer" and "pre_tokenizer"
// of github.com/huggingface/tokenizers, the kinds that Llama's relatives, Mistral, Qwen and GPT-2 have.

// Changes a text.
class Normalizer {
 public:
  // Of the JSON value, null included. What is not known or wrong becomes a problem of `key`.
  static Normalizer read(const nlohmann::json& json, const std::string& key, Diagnostics& problems);

  [[nodiscard]] bool empty() const { return steps_.empty(); }
  [[nodiscard]] std::string apply(std::string text) const;

 private:
  enum class Form { nfc, nfd, nfkc, nfkd };
  struct Prepend {
    std::string text;  // before a text that is not empty
  };
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  struct Strip {
    bool left = false;
    bool right = false;
  };
  using Step = std::variant<Form, Prepend, Replace, Strip>;

  void add(const nlohmann::json& json, const std::string& key, Diagnostics& problems);
  static std::string run(const Step& step, std::string text);

  std::vector<Step> steps_;
};

// Cuts a text into words.
class PreTokenizer {
 public:
  static PreTokenizer read(const nlohmann::json& json, const std::string& key,
                           Diagnostics& problems);

  // Whether words are the bytes of a text, each a character of GPT-2's alphabet in the file.
  [[nodiscard]] bool is_byte_level() const { return byte_level_; }

  // Calls visit(word) for each word of a stretch, in order, none empty. `first`: the stretch begins
  // the text.
  using Visit = std::function<void(std::string_view word)>;
  void split(std::string_view stretch, bool first, const Visit& visit) const;

 private:
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Split {
    TextPattern pattern;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
  };
  struct PrefixSpace {};  // a space before a stretch that begins with none
  struct Metaspace {
    enum class Prepend { always, first, never };
    std::string replacement;
    Prepend prepend = Prepend::always;
  };
  using Step = std::variant<Split, PrefixSpace, Metaspace>;

  void add(const nlohmann::json& json, const std::string& key, Diagnostics& problems);
  void add_split(const nlohmann::json& json, const std::string& key, Diagnostics& problems);
  void add_metaspace(const nlohmann::json& json, const std::string& key, Diagnostics& problems);
  void run(size_t step, std::string_view stretch, bool first, const Visit& visit) const;
  static void cut(const Split& split, std::string_view text, const Visit& visit);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace emoe
