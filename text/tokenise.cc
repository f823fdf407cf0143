#include "text/tokenise.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "text/template_match.h"

namespace emoe {
namespace {

// Leaves the first `length` tokens and the targets among them.
void cut_row(Row& row, size_t length) {
  row.ids.resize(length);
  for (TokenSpan& span : row.targets) span.end = std::min(span.end, static_cast<int32_t>(length));
  std::erase_if(row.targets, [](const TokenSpan& span) { return span.begin >= span.end; });
}

// With what the job says of the parts to be learned.
Result<std::vector<TextPart>> render_row(const std::vector<data::Message>& messages,
                                         const Recipe& recipe) {
  EMOE_ASSIGN_OR_RETURN(std::vector<TextPart> parts, recipe.chat->render(messages));
  for (TextPart& part : parts) part.trained = part.trained || recipe.options.train_on_prompt;
  return parts;
}

Tokenised tokenise_messages(const data::SourceRow& source, const Recipe& recipe) {
  const DatasetOptions& options = recipe.options;
  const std::vector<data::Message> messages = messages_to_train(source, options);
  const auto parts = render_row(messages, recipe);
  if (!parts.ok()) return {.fault = std::string(parts.status().message())};
  Row row = parts_to_row(*parts, recipe.tokenizer, !recipe.chat->writes_ends());
  row.source_index = source.index;
  const auto max_length = static_cast<size_t>(options.max_length);
  Tokenised result{.whole_length = std::ssize(row.ids),
                   .cut = row.ids.size() > max_length,
                   .learns_nothing = row.targets.empty(),
                   .empty_answers = data::has_empty_answers(messages)};
  cut_row(row, std::min(row.ids.size(), max_length));
  result.rows.push_back(std::move(row));
  return result;
}

Tokenised tokenise_text(const data::SourceRow& row, const Recipe& recipe) {
  const Tokenizer& tokenizer = recipe.tokenizer;
  std::vector<int32_t> ids = tokenizer.encode(row.text);
  ids.push_back(tokenizer.eos_id());
  const auto payload =
      static_cast<size_t>(recipe.options.max_length) - 1;  // beside what each row begins with
  Tokenised result{.whole_length = std::ssize(ids)};
  for (size_t at = 1; at < ids.size(); at += payload) {
    Row piece{.source_index = row.index};
    piece.ids.push_back(tokenizer.has_bos() ? tokenizer.bos_id() : ids[at - 1]);
    const size_t end = std::min(at + payload, ids.size());
    piece.ids.insert(piece.ids.end(), ids.begin() + static_cast<ptrdiff_t>(at),
                     ids.begin() + static_cast<ptrdiff_t>(end));
    piece.targets = {{1, static_cast<int32_t>(piece.ids.size())}};
    result.rows.push_back(std::move(piece));
  }
  return result;
}

// Whoever uses the model later is served by the template of its folder.
void warn_of_other_template(const Recipe& recipe, Diagnostics& diagnostics) {
  if (recipe.chat == nullptr || !recipe.chat->writes_ends()) return;
  const std::filesystem::path folder = recipe.tokenizer.file().parent_path();
  const auto jinja = read_folder_template(folder);
  if (!jinja.ok() || jinja->empty()) return;
  const TemplateForm* own = match_template(*jinja);
  if (own != nullptr && template_name(*own) == recipe.chat->name()) return;
  diagnostics.warn(
      {.code = warning::kDefaultDiffers,
       .text = absl::StrCat("rows are written by the template ", recipe.chat->name(), ", but ",
                            folder.string(), " has ",
                            own == nullptr ? "another chat_template" : template_name(*own),
                            ", which the export keeps: whoever chats with it must name the one "
                            "that was taught"),
       .where = "data.template"});
}

}  // namespace

Recipe make_recipe(const DatasetOptions& options, const Tokenizer& tokenizer,
                   Diagnostics& diagnostics) {
  const data::RowFormat* format = data::find_row_format(options.format);
  EMOE_CHECK(format != nullptr, options.format);
  Recipe recipe{.options = options, .tokenizer = tokenizer, .format = *format};
  auto chat = load_chat_template(options.chat_template, *format, tokenizer);
  if (!chat.ok()) diagnostics.add("data.template", std::string(chat.status().message()));
  if (!chat.ok()) return recipe;
  recipe.chat = std::move(*chat);
  warn_of_other_template(recipe, diagnostics);
  return recipe;
}

std::vector<TextPart> parts_of(const data::SourceRow& row, const Recipe& recipe) {
  if (!recipe.format.has_messages()) return {{.text = row.text, .trained = true}};
  const auto parts = render_row(messages_to_train(row, recipe.options), recipe);
  return parts.ok() ? *parts : std::vector<TextPart>();
}

size_t bytes_within(const std::vector<TextPart>& parts, const Recipe& recipe, int64_t tokens) {
  const std::string text = text_of(parts);
  // The tokens of the text up to a byte, the rest being there, too.
  const auto tokens_before = [&](size_t bytes) {
    std::vector<TextStretch> stretches;
    size_t counted = 0;
    size_t begin = 0;
    for (const TextPart& part : parts) {
      const std::string_view whole = part.text;
      const size_t here = bytes < begin || bytes > begin + whole.size() ? 0 : bytes - begin;
      if (here > 0) {
        counted = stretches.size();
        stretches.push_back({whole.substr(0, here), part.written, true});
      }
      if (here < whole.size()) stretches.push_back({whole.substr(here), part.written});
      begin += whole.size();
    }
    return recipe.tokenizer.encode_stretches(stretches, !recipe.chat->writes_ends()).ends[counted];
  };
  size_t low = 0;
  for (size_t high = text.size(); low + 1 < high;) {
    const size_t middle = low + (high - low) / 2;
    (tokens_before(middle) <= tokens ? low : high) = middle;
  }
  while (low > 0 && (static_cast<unsigned char>(text[low]) & 0xC0) == 0x80) --low;
  return low;
}

Tokenised tokenise_row(const data::SourceRow& row, const Recipe& recipe) {
  Tokenised result =
      recipe.format.has_messages() ? tokenise_messages(row, recipe) : tokenise_text(row, recipe);
  result.tokens_as_text = data::tokens_as_text(row, recipe.tokenizer);
  return result;
}

std::vector<data::Message> messages_to_train(const data::SourceRow& row,
                                             const DatasetOptions& options) {
  std::vector<data::Message> messages = row.messages;
  if (!options.last_answer_only) return messages;
  bool last = true;
  for (auto message = messages.rbegin(); message != messages.rend(); ++message) {
    if (message->role != "assistant") continue;
    message->learned = message->learned && last;
    last = false;
  }
  return messages;
}

Row parts_to_row(const std::vector<TextPart>& parts, const Tokenizer& tokenizer, bool ends) {
  std::vector<TextStretch> stretches;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool turns = i + 1 < parts.size() && parts[i + 1].trained != parts[i].trained;
    stretches.push_back({parts[i].text, parts[i].written, turns});
  }
  StretchIds encoded = tokenizer.encode_stretches(stretches, ends);
  Row row{.ids = std::move(encoded.ids)};
  bool trained = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].trained == trained) continue;
    trained = parts[i].trained;
    // A longer text may have fewer tokens: the spans must not overlap for that.
    const int32_t last =
        row.targets.empty() ? 1 : std::max(row.targets.back().begin, row.targets.back().end);
    const int32_t at = std::max(last, i == 0 ? 1 : encoded.ends[i - 1]);
    if (trained) {
      row.targets.push_back({.begin = at});
    } else {
      row.targets.back().end = at;
    }
  }
  if (ends) row.ids.push_back(tokenizer.eos_id());
  if (trained) row.targets.back().end = static_cast<int32_t>(row.ids.size());
  cut_row(row, row.ids.size());
  return row;
}

}  // namespace emoe
