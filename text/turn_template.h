#pragma once

#include <memory>

#include "text/chat_template.h"
#include "text/template_form.h"

namespace emoe {

// The template of a form with the tokens of a tokenizer. INVALID_ARGUMENT: a special token that the
// form writes is none of the tokenizer's.
[[nodiscard]] Result<std::unique_ptr<ChatTemplate>> make_turn_template(const TemplateForm& form,
                                                                       const Tokenizer& tokenizer);

}  // namespace emoe
