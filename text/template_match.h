#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"
#include "text/template_form.h"

namespace emoe {

// The chat template of a model's folder in Jinja: chat_template.jinja, chat_template.json, or of
// tokenizer_config.json ("default" of several), the first that is there; empty: none. INVALID_ARGUMENT:
// a file that cannot be read as it should.
[[nodiscard]] Result<std::string> read_folder_template(const std::filesystem::path& folder);

// The form that a template in Jinja is known to write; null: it is not known. Two templates are taken
// for the same only where they are the same program: equal tokens and equal text between them, once
// comments are gone and white space is as Jinja treats it in transformers (trim_blocks, lstrip_blocks).
// Nothing is guessed from what a template looks like.
[[nodiscard]] const TemplateForm* match_template(const std::string& jinja);

// That program as one text, and its SHA-256, by which published templates are known.
[[nodiscard]] std::string template_program(const std::string& jinja);
[[nodiscard]] std::string template_digest(const std::string& jinja);

}  // namespace emoe
