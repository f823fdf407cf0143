#include "format/json_tokenizer.h"

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/bpe_model.h"
#include "format/byte_alphabet.h"
#include "format/text_pattern.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr char kWords[] = R"( ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+)";

json added_token(int32_t id, const std::string& content, const json& flags = {}) {
  json token = {{"id", id},        {"content", content},   {"special", false},   {"lstrip", false},
                {"rstrip", false}, {"single_word", false}, {"normalized", false}};
  if (flags.is_object()) token.update(flags);
  return token;
}

// The 256 bytes, then what the merges make; BOS 1000 before every text, EOS 1001.
json byte_level_file() {
  json vocabulary = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[to_byte_alphabet(std::string(1, static_cast<char>(byte)))] = byte;
  }
  json merges = json::array();
  int id = 256;
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"a", "b"}, {"ab", "c"}, {"b", "c"}, {" ", "ab"}, {"\xC3", "\xA9"}, {"1", "2"}}) {
    merges.push_back(to_byte_alphabet(left) + " " + to_byte_alphabet(right));
    vocabulary[to_byte_alphabet(left + right)] = id++;
  }
  return {{"version", "1.0"},
          {"added_tokens",
           {added_token(1000, "<s>", {{"special", true}}),
            added_token(1001, "</s>", {{"special", true}}), added_token(1002, "<tool>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern", {{"Regex", kWords}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

class JsonTokenizerTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<Tokenizer>> load(const json& file) {
    std::ofstream(folder_ / "tokenizer.json")
        << file;  // not flushed to the disk: thousands of them
    std::ofstream(folder_ / "tokenizer_config.json") << config_;
    return load_tokenizer(folder_.path());
  }
  Ids ids(const json& file, const std::string& text) {
    const auto tokenizer = load(file);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->tokenize(text) : Ids{};
  }
  std::string problem(const json& file) {
    const auto tokenizer = load(file);
    EXPECT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalidArgument) << tokenizer.status();
    return std::string(tokenizer.status().message());
  }

  testing::TempDir folder_;
  json config_ = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
};

TEST_F(JsonTokenizerTest, WordsAreMergedInTheOrderOfTheFile) {
  const json file = byte_level_file();
  EXPECT_EQ(ids(file, ""), (Ids{1000}));
  EXPECT_EQ(ids(file, "abc"), (Ids{1000, 257}));
  EXPECT_EQ(ids(file, "bbc ab"), (Ids{1000, 'b', 258, 259}));
  EXPECT_EQ(ids(file, "12é"), (Ids{1000, '1', '2', 260}));  // digits stand alone before merges
  EXPECT_EQ(ids(file, "a<tool>b</s>"), (Ids{1000, 'a', 1002, 'b', 1001}));
}

TEST_F(JsonTokenizerTest, SpeaksItsOwnBytes) {
  const auto tokenizer = load(byte_level_file());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string text : {"caf\u00e9 abc\n\t <tool> \U0001F600", "", " ab"}) {
    EXPECT_EQ((*tokenizer)->decode((*tokenizer)->encode(text)), text);
  }
  EXPECT_EQ((*tokenizer)->decode(Ids{0xC3}), "\uFFFD");
  EXPECT_EQ((*tokenizer)->pieces(), 262);
  EXPECT_EQ((*tokenizer)->vocab_size(), 1003);
  EXPECT_EQ((*tokenizer)->eos_id(), 1001);
  // Not UTF-8: as if each bad byte were U+FFFD.
  EXPECT_EQ((*tokenizer)->encode("a\xFF"), (Ids{1000, 'a', 0xEF, 0xBF, 0xBD}));
}

// The paths of all values; of a long list or object its first two.
void collect_paths(const json& value, const json::json_pointer& at,
                   std::vector<json::json_pointer>& paths) {
  paths.push_back(at);
  if (!value.is_structured()) return;
  size_t count = 0;
  for (const auto& [key, child] : value.items()) {
    if (value.size() > 20 && ++count > 2) return;
    collect_paths(child, value.is_array() ? at / static_cast<size_t>(std::stoul(key)) : at / key,
                  paths);
  }
}

// Whatever stands in a place of the file, it is taken or refused, and what is taken can be used.
TEST_F(JsonTokenizerTest, NoValueOfAnotherKindIsTheEnd) {
  json characters = byte_level_file();
  characters["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "_"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "_"}},
        {{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}}}};
  characters["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}};
  characters["decoder"] = {
      {"type", "Sequence"},
      {"decoders",
       {{{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}},
        {{"type", "ByteFallback"}},
        {{"type", "Fuse"}},
        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  characters["model"]["byte_fallback"] = true;
  characters["model"]["unk_token"] = "!";
  characters["post_processor"]["special_tokens"] = {{"<s>", {{"id", "<s>"}, {"ids", {1000}}}}};
  int taken = 0;
  for (const json& file : {byte_level_file(), characters}) {
    std::vector<json::json_pointer> paths;
    collect_paths(file, json::json_pointer(), paths);
    for (const json::json_pointer& path : paths) {
      for (const json& other :
           {json(), json("x"), json("<0xZZ>"), json(-7), json(1e300), json(true), json::array(),
            json::object(), json({"x"}), json({{"type", 3}})}) {
        json changed = file;
        changed[path] = other;
        const auto tokenizer = load(changed);
        if (!tokenizer.ok()) {
          EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalidArgument) << tokenizer.status();
          continue;
        }
        ++taken;
        for (const int32_t id : (*tokenizer)->encode("abc 12 \u00e9")) {
          (void)(*tokenizer)->decode(Ids{id});
        }
      }
    }
  }
  EXPECT_GT(taken, 100);
}

TEST_F(JsonTokenizerTest, APieceThatOnlyLooksLikeAByteIsNone) {
  json file = byte_level_file();
  file["pre_tokenizer"] = nullptr;
  file["decoder"] = {{"type", "ByteFallback"}};
  file["model"]["vocab"]["<0xZZ>"] = 500;
  const auto tokenizer = load(file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->decode(Ids{500}), "<0xZZ>");
}

TEST_F(JsonTokenizerTest, ThePostProcessorDecides) {
  json file = byte_level_file();
  config_["add_bos_token"] =
      false;  // transformers 5 drops both flags where there is a tokenizer.json
  config_["add_eos_token"] = true;
  EXPECT_EQ(ids(file, "ab"), (Ids{1000, 256}));
  file["post_processor"] = nullptr;
  EXPECT_EQ(ids(file, "ab"), (Ids{256}));
  config_["split_special_tokens"] = true;
  EXPECT_EQ(ids(file, "</s><tool>"), (Ids{'<', '/', 's', '>', 1002}));
}

TEST_F(JsonTokenizerTest, TheConfigsListOfTokensIsAddedToTheFiles) {
  const json file = byte_level_file();
  const auto entry = [](const std::string& content, const json& flags = {}) {
    json token = added_token(0, content, flags);
    token.erase("id");
    return token;
  };
  config_["added_tokens_decoder"] = {{"1002", entry("<tool>", {{"lstrip", true}})},
                                     {"257", entry("abc")},
                                     {"1003", entry("<new>")}};
  EXPECT_EQ(ids(file, "a <tool>"), (Ids{1000, 'a', 1002}));
  EXPECT_EQ(ids(file, "xabcx<new>"), (Ids{1000, 'x', 257, 'x', 1003}));
  config_["added_tokens_decoder"] = {{"1234", entry("<new>")}};
  EXPECT_NE(problem(file).find("added_tokens_decoder.1234: \"<new>\" is no token of"),
            std::string::npos);
  config_["added_tokens_decoder"] = {{"x", entry("<new>")}};
  EXPECT_NE(problem(file).find("added_tokens_decoder.x: is no token with an id"),
            std::string::npos);
}

// Oniguruma's reading, as the tokenizers library has it.
TEST(TextPattern, IsReadAsOniguruma) {
  const auto matches = [](const std::string& expression, const std::string& text) {
    std::vector<std::string> found;
    TextPattern::regex(expression).value().for_matches(text, [&](size_t begin, size_t end) {
      found.push_back(text.substr(begin, end - begin));
    });
    return found;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(matches("[^\\S\\r\\n]+", "a \t\nb\u180E"), (Texts{" \t"}));
  EXPECT_EQ(matches("\\p{Han}+", "中\u3001文"), (Texts{"中", "文"}));
  EXPECT_EQ(matches("\\P{Han}+", "中\u3001文"), (Texts{"\u3001"}));
  EXPECT_EQ(matches("[\\p{L}\\p{Nd}]+", "ab1-c"), (Texts{"ab1", "c"}));
  EXPECT_EQ(matches("ba{,2}", "baaab"), (Texts{"baa", "b"}));
  EXPECT_EQ(matches("(?i:'s)", "'S's"), (Texts{"'S", "'s"}));
  for (const char* other : {"\\w+", "[\\w-]", "\\W", "\\bword", "\\h", "\\v", "\\R", "[[:alpha:]]",
                            "(?m)a.b", "(?s:.)", "\\p{L}{1,2}+", "\\p{Alpha}"}) {
    EXPECT_EQ(TextPattern::regex(other).status().code(), StatusCode::kInvalidArgument) << other;
  }
}

TEST_F(JsonTokenizerTest, AddedTokensByTheirFlags) {
  json file = byte_level_file();
  file["post_processor"] = nullptr;
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"].push_back(added_token(1003, "<l>", {{"lstrip", true}, {"rstrip", true}}));
  file["added_tokens"].push_back(added_token(1004, "[w]", {{"single_word", true}}));
  file["added_tokens"].push_back(added_token(1005, "e\u0301!", {{"normalized", true}}));
  EXPECT_EQ(ids(file, "a  <l>\n b"), (Ids{'a', 1003, 'b'}));
  EXPECT_EQ(ids(file, "[w] a[w]").size(), 1U + 1 + 1 + 3);
  EXPECT_EQ(ids(file, "\u00e9!a"), (Ids{1005, 'a'}));
  EXPECT_EQ(ids(file, "e\u0301a"), (Ids{260, 'a'}));
}

TEST_F(JsonTokenizerTest, PiecesOfCharacters) {
  json vocabulary = {{"<unk>", 0},  {"<s>", 1}, {"</s>", 2},
                     {"\u2581", 3}, {"a", 4},   {"\u2581a", 5}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    vocabulary[text] = 10 + byte;
  }
  json file = {
      {"added_tokens",
       {added_token(0, "<unk>", {{"special", true}}), added_token(1, "<s>", {{"special", true}}),
        added_token(2, "</s>", {{"special", true}})}},
      {"pre_tokenizer",
       {{"type", "Metaspace"},
        {"replacement", "\u2581"},
        {"prepend_scheme", "first"},
        {"split", false}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocabulary},
        {"merges", json::array({json::array({"\u2581", "a"})})},
        {"byte_fallback", true},
        {"fuse_unk", true},
        {"unk_token", "<unk>"}}}};
  EXPECT_EQ(ids(file, "a a"), (Ids{5, 5}));
  EXPECT_EQ(ids(file, "</s>a"), (Ids{2, 4}));  // a space only before the text
  EXPECT_EQ(ids(file, "a\u00e9"), (Ids{5, 10 + 0xC3, 10 + 0xA9}));
  EXPECT_EQ((*load(file))->decode(Ids{5, 5, 10 + 0xC3, 10 + 0xA9}), "a a\u00e9");
  // Legacy: before each stretch.
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "\u2581"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}};
  EXPECT_EQ(ids(file, "</s>a"), (Ids{2, 5}));
  file["model"]["byte_fallback"] = false;
  EXPECT_EQ(ids(file, "a\u00e9\u00e9a"), (Ids{5, 0, 4}));
}

TEST_F(JsonTokenizerTest, WhatCannotBeObeyedIsNamed) {
  struct Case {
    json patch;
    std::string said;
  };
  const json split = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a"}}}};
  const json nested = {
      {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "[a[b]]"}}}};
  for (const Case& c : std::vector<Case>{
           {{{"model", {{"type", "Unigram"}}}},
            "model.type: is \"Unigram\"; only BPE is supported"},
           {{{"model", {{"dropout", 0.1}}}}, "model.dropout: is 0.1"},
           {{{"model", {{"end_of_word_suffix", "</w>"}}}}, "model.end_of_word_suffix"},
           {{{"model", {{"merges", {"a zz"}}}}}, "merge 1 (\"a\" and \"zz\") needs \"zz\""},
           {{{"model", {{"merges", {"a"}}}}}, "entry 1 is no pair"},
           {{{"model", {{"unk_token", "<none>"}}}},
            "unk_token \"<none>\" is not in the vocabulary"},
           {{{"model", {{"vocab", {{"twin", 97}}}}}}, "both have the id 97"},
           {{{"normalizer", {{"type", "BertNormalizer"}}}},
            "normalizer: is of type \"BertNormalizer\""},
           {{{"pre_tokenizer", {{"type", "Whitespace"}}}}, "is of type \"Whitespace\""},
           {{{"pre_tokenizer", {{"pretokenizers", {split}}}}},
            "the regular expression (a cannot be used"},
           {{{"pre_tokenizer", {{"pretokenizers", {nested}}}}}, "a class in a class"},
           {{{"post_processor", {{"special_tokens", {{"<s>", {{"ids", {7}}}}}}}}},
            "post_processor: puts [7] for \"<s>\", which is token 1000"},
           {{{"post_processor", {{"type", "BertProcessing"}}}},
            "post_processor: is of type \"BertProcessing\""},
           {{{"decoder", {{"type", "CTC"}}}}, "decoder: is of type \"CTC\""}}) {
    json file = byte_level_file();
    file.merge_patch(c.patch);
    EXPECT_NE(problem(file).find(c.said), std::string::npos) << problem(file);
  }
  config_["eos_token"] = "<end>";
  EXPECT_NE(problem(byte_level_file()).find("eos_token: is \"<end>\", which is no token of"),
            std::string::npos);
  config_.erase("eos_token");
  EXPECT_NE(problem(byte_level_file()).find("names no eos_token"), std::string::npos);
  EXPECT_NE(problem(json::array()).find("is not a JSON object"), std::string::npos);
}

TEST(BpeModel, EqualMergesAreTakenFromTheLeft) {
  const auto model =
      BpeModel::make({{"a", 0}, {"aa", 1}, {"aaaa", 2}}, {{"a", "a"}, {"aa", "aa"}}, {});
  ASSERT_TRUE(model.ok()) << model.status();
  Ids ids;
  model->encode("aaaaaaa", ids);
  EXPECT_EQ(ids, (Ids{2, 1, 0}));
  // A piece that its merges do not make is taken whole only with ignore_merges.
  for (const bool ignore : {false, true}) {
    const auto other =
        BpeModel::make({{"a", 0}, {"b", 1}, {"ab", 2}}, {}, {.ignore_merges = ignore});
    for (int again = 0; again < 2; ++again) {
      ids.clear();
      other->encode("ab", ids);
      EXPECT_EQ(ids, ignore ? (Ids{2}) : (Ids{0, 1}));
    }
  }
}

TEST(BpeModel, WordsBetweenSpacesAreTheirOwnUnlessAMergeCrosses) {
  const std::string space = "\u2581";
  const auto ids = [&](const std::vector<BpeModel::Merge>& merges, const std::string& word,
                       BpeModel::Options options = {.fuse_unk = true, .unk_token = "?"}) {
    const auto model = BpeModel::make({{"a", 0},
                                       {"b", 1},
                                       {space, 2},
                                       {space + "b", 3},
                                       {"a" + space + "b", 4},
                                       {space + space, 5},
                                       {"?", 6}},
                                      merges, std::move(options));
    std::vector<int32_t> found;
    model->encode(word, found);
    return found;
  };
  using Ids = std::vector<int32_t>;
  const std::vector<BpeModel::Merge> within{{space, space}, {space, "b"}};
  const std::vector<BpeModel::Merge> across{{space, "b"}, {"a", space + "b"}, {space, space}};
  const std::string word = "a" + space + "b" + space + space + "b" + space;
  EXPECT_EQ(ids(within, word), (Ids{0, 3, 5, 1, 2}));
  EXPECT_EQ(ids(across, word), (Ids{4, 2, 3, 2}));
  EXPECT_EQ(ids(within, "a" + space + "b"), (Ids{0, 3}));  // the word is a piece, not a merge
  EXPECT_EQ(ids(within, "a" + space + "b", {.ignore_merges = true}), Ids{4});
  EXPECT_EQ(ids(within, "xx" + space + "x" + space), (Ids{6, 2, 6, 2}));
  EXPECT_EQ(ids(within, ""), Ids{});
}

TEST(TextPattern, WhiteSpaceIsUnicodes) {
  const TextPattern spaces = TextPattern::regex(R"(\s+|[^\s]+)").value();
  std::vector<std::pair<size_t, size_t>> found;
  // U+180E is no white space, U+3000 is.
  spaces.for_matches("a\u180E\u3000b",
                     [&](size_t begin, size_t end) { found.emplace_back(begin, end); });
  EXPECT_EQ(found, (std::vector<std::pair<size_t, size_t>>{{0, 4}, {4, 7}, {7, 8}}));
  found.clear();
  TextPattern::regex("x*").value().for_matches(
      "\u00e9x", [&](size_t begin, size_t end) { found.emplace_back(begin, end); });
  EXPECT_EQ(found, (std::vector<std::pair<size_t, size_t>>{{0, 0}, {2, 3}, {3, 3}}));
}

TEST(ByteAlphabet, IsGpt2s) {
  EXPECT_EQ(to_byte_alphabet(" a\n"), "\u0120a\u010A");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(from_byte_alphabet(to_byte_alphabet(all)), all);
  EXPECT_EQ(from_byte_alphabet("a b"), std::nullopt);
  EXPECT_EQ(from_byte_alphabet("\u5B57"), std::nullopt);
}

}  // namespace
}  // namespace emoe
