#include "text/template_match.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "base/input_file.h"
#include "base/sha256.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A template that somebody has published: its digest, the variant of the form that it writes.
struct Published {
  const char* digest;
  const char* variant;
};
constexpr std::array<Published, 20> kPublished{{
    {"247067fd4bc3f019ad8671a804061a63026d7926fd595412d500bfac204ea706", "plain"},
    {"5752c0a71f43fa9f226c29ee2cde1123e17da57d5c815c0922c1bb91ad912724", "plain"},
    {"a08e23747b6c6e44bba3e179d39fefdd03e7c28f864236d966eceabc171f72d3", "plain"},
    {"9882de87a9edb8dd165ef0454a5d2cf8a73ec15ce9608bf3ff6a3ad0a8baf6da", "plain"},
    {"99bc53b5282efd7b5d221b54a2732d39a82bc728bfd3b090d15040ed184eb450", "llama 2"},
    {"107a8cfcb8427e53069bbe4a61761f78ef03a22fbfc2406dc24859c0c92e1701", "llama 2"},
    {"09bd095cc5398e5f34aac2a8909864d2b275a0a08ec3d08bb52b53bab86dcbe7", "llama 3.1"},
    {"d4db720d2931c2d0c5d59e1f5a51f7c4f246f8974be6207f744c495d16349a47",
     "llama 3.2, of 26 Jul 2024"},
    {"607cd958893d820b5507a153d53acf301930931ca998077aec2549548a557b3c", "llama 3"},
    {"36e890e30d1b17e4695fd1310600666017462c9f0e393ae3ca0eb7c884614558", "llama 3, first"},
    {"01b7732a3a9fca78c7713681c5c85e11c58808c502315b488af0770171a4fbd1", "v0.1"},
    {"114c6eb631a71a2d1c4f40c57fdd869cf7b9177adcb465449538cd48c5ce8910", "v0.2"},
    {"57255121ee23993a8a30b32818e70e38b3b118caf4776f022e90f51af9980d2e", "v0.3"},
    {"638ccebda5249f12527d8a1c8ad945be5d6c440254d8a3118bac7856691992ec", "v7"},
    {"18d0ce831eb521d3910dd604a64191d0186c1cde12fb8226c60d62fa3a7791ae", "v0.2 with system"},
    {"51c85d453c67980dbb41bfbd692d00ca80d58f9579d43695528343d6193cfb91", "nemo"},
    {"951e80b6f094f0c9c063e0ba3c923bd901c868af3ec83f108be6cef93b2d7155", "qwen2.5"},
    {"3cb643a2e88591544de82462363b90162664f5721c189d2c24fd96ad0e3f18d7", "qwen2"},
    {"7ed24dea6f489f57b814bd58a8db96e8ba4c28ca1b1873dbfe075064f0ea2b57", "qwen3"},
    {"badc08808cf6da71b5d08c87d161fa8b965e98f102af5b62b456bc0e10a6378b", "qwen3 instruct"},
}};

constexpr char kSpace[] = " \t\r\n\v\f";

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// Cuts a template into text and the tokens of its tags.
class ProgramReader {
 public:
  explicit ProgramReader(std::string_view text) : rest_(text) {
    // Jinja leaves out one line end behind the whole text.
    if (rest_.ends_with('\n')) rest_.remove_suffix(1);
  }

  std::string read() {
    while (true) {
      const size_t tag = find_tag();
      add_text(tag);
      if (tag == rest_.size()) break;
      rest_.remove_prefix(tag);
      read_tag();
    }
    flush();
    return std::move(program_);
  }

 private:
  [[nodiscard]] size_t find_tag() const {
    for (size_t at = 0; at + 1 < rest_.size(); ++at) {
      if (rest_[at] == '{' && std::strchr("{%#", rest_[at + 1]) != nullptr) return at;
    }
    return rest_.size();
  }

  // The text before the tag at `tag` (or the end), without the white space that the tags on both sides
  // take, as Jinja's lexer cuts it.
  void add_text(size_t tag) {
    std::string_view text = rest_.substr(0, tag);
    bool line_begins = at_start_;
    const auto take = [&](size_t bytes) {
      if (bytes > 0) line_begins = text[bytes - 1] == '\n';
      text.remove_prefix(bytes);
    };
    if (strips_behind_) {
      take(std::min(text.find_first_not_of(kSpace), text.size()));
    } else if (trims_line_ && text.starts_with('\n')) {
      take(1);
    }
    at_start_ = false;
    if (tag < rest_.size()) text = text.substr(0, end_before_tag(text, tag, line_begins));
    text_ += text;
  }

  [[nodiscard]] size_t end_before_tag(std::string_view text, size_t tag, bool line_begins) const {
    const char kind = rest_[tag + 1];
    const char mark = rest_.size() > tag + 2 ? rest_[tag + 2] : 0;
    if (mark == '-') return text.find_last_not_of(kSpace) + 1;
    if (mark == '+' || kind == '{') return text.size();
    const size_t line = text.rfind('\n') + 1;  // lstrip_blocks
    const bool blank = text.find_first_not_of(kSpace, line) == std::string_view::npos;
    return blank && (line > 0 || line_begins) ? line : text.size();
  }

  void flush() {
    if (!text_.empty()) absl::StrAppend(&program_, "T", text_, std::string(1, '\x1e'));
    text_.clear();
  }

  void read_tag() {
    strips_behind_ = false;
    const char kind = rest_[1];
    rest_.remove_prefix(2);
    if (rest_.starts_with('-') || rest_.starts_with('+')) rest_.remove_prefix(1);
    if (kind == '#') return skip_comment();
    flush();
    absl::StrAppend(&program_, std::string(1, kind), std::string(1, '\x1e'));
    read_tokens(kind == '{' ? "}}" : "%}");
    absl::StrAppend(&program_, "end", std::string(1, '\x1e'));
    trims_line_ = kind == '%';
  }

  void skip_comment() {
    const size_t end = std::min(rest_.find("#}"), rest_.size());
    strips_behind_ = end > 0 && end < rest_.size() && rest_[end - 1] == '-';
    trims_line_ = true;
    rest_.remove_prefix(std::min(end + 2, rest_.size()));
  }

  void add_token(std::string_view token) {
    absl::StrAppend(&program_, std::string(token), std::string(1, '\x1e'));
  }

  void read_tokens(std::string_view close) {
    while (!rest_.empty()) {
      const char c = rest_.front();
      strips_behind_ = c == '-' && rest_.substr(1).starts_with(close);
      if (strips_behind_ || rest_.starts_with(close)) {
        rest_.remove_prefix(close.size() + (strips_behind_ ? 1 : 0));
        return;
      }
      if (std::isspace(static_cast<unsigned char>(c)) != 0) {
        rest_.remove_prefix(1);
      } else if (c == '\'' || c == '"') {
        read_string(c);
      } else if (is_name(c)) {
        const auto end = std::ranges::find_if_not(rest_, is_name);
        add_token(rest_.substr(0, end - rest_.begin()));
        rest_.remove_prefix(end - rest_.begin());
      } else if (!read_member()) {
        add_token(rest_.substr(0, 1));
        rest_.remove_prefix(1);
      }
    }
  }

  // message.role is message['role'].
  bool read_member() {
    if (rest_.front() != '.') return false;
    const std::string_view behind = rest_.substr(1);
    const auto end = std::ranges::find_if_not(behind, is_name);
    const std::string_view name = behind.substr(0, end - behind.begin());
    static constexpr std::array<std::string_view, 4> kKeys{"role", "content", "function", "name"};
    if (std::ranges::find(kKeys, name) == kKeys.end()) return false;
    add_token("[");
    add_token(absl::StrCat("S", std::string(name)));
    add_token("]");
    rest_.remove_prefix(1 + name.size());
    return true;
  }

  void read_string(char quote) {
    std::string value;
    rest_.remove_prefix(1);
    while (!rest_.empty() && rest_.front() != quote) {
      char c = rest_.front();
      if (c == '\\' && rest_.size() > 1) {
        rest_.remove_prefix(1);
        c = rest_.front();
        if (c == 'n')
          c = '\n';
        else if (c == 't')
          c = '\t';
        else if (c == 'r')
          c = '\r';
        else if (c != '\\' && c != '\'' && c != '"')
          value += '\\';
      }
      value += c;
      rest_.remove_prefix(1);
    }
    if (!rest_.empty()) rest_.remove_prefix(1);
    add_token("S" + value);
  }

  std::string_view rest_;
  std::string program_;
  std::string text_;
  bool strips_behind_ = false;  // the tag before took the white space behind it
  bool trims_line_ = false;     // or a line end
  bool at_start_ = true;        // of the template
};

Result<std::string> template_of_json(const json& object, const std::string& file) {
  const json value = object.value("chat_template", json());
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return std::string();
  for (const json& entry : value.is_array() ? value : json::array()) {
    if (!entry.is_object() || entry.value("name", json()) != "default") continue;
    const json text = entry.value("template", json());
    if (text.is_string()) return text.get<std::string>();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": chat_template is neither a text nor a list with a \"default\""));
}

}  // namespace

Result<std::string> read_folder_template(const fs::path& folder) {
  constexpr size_t kMostBytes = 1 << 20;
  const fs::path own = folder / "chat_template.jinja";
  if (has_entry(own)) return read_input(own, InputKind::text, kMostBytes);
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    EMOE_ASSIGN_OR_RETURN(const json object, read_json_object(folder / name));
    EMOE_ASSIGN_OR_RETURN(std::string text, template_of_json(object, (folder / name).string()));
    if (!text.empty()) return text;
  }
  return std::string();
}

std::string template_program(const std::string& jinja) {
  std::string text = jinja;
  std::erase(text, '\r');
  return ProgramReader(text).read();
}

std::string template_digest(const std::string& jinja) {
  return sha256_hex(template_program(jinja));
}

const TemplateForm* match_template(const std::string& jinja) {
  const std::string digest = template_digest(jinja);
  const auto published = std::ranges::find_if(
      kPublished, [&](const Published& entry) { return entry.digest == digest; });
  for (const TemplateForm& form : template_forms()) {
    if (published != kPublished.end() && std::string_view(form.variant) == published->variant) {
      return &form;
    }
    if (*form.jinja != 0 && template_digest(form.jinja) == digest) return &form;
  }
  return nullptr;
}

}  // namespace emoe
