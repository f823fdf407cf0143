#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/chat_template.h"
#include "text/template_form.h"

namespace emoe {

// The functions that may be called, a JSON list of objects, as the template writes them.
// INVALID_ARGUMENT: it needs what they have not, said as of a row: "has …".
[[nodiscard]] Result<std::vector<TextPart>> functions_text(const ToolForm& form,
                                                           const nlohmann::ordered_json& functions);

// The calls of an answer, which has some. `behind`: it has a text before them. INVALID_ARGUMENT: the
// template does not write such calls; "… does not write", to stand behind "has tool_calls in message 2".
[[nodiscard]] Result<std::vector<TextPart>> calls_text(const ToolForm& form,
                                                       const data::Message& answer, bool behind);

// The name of a call that Mistral's templates want: nine letters.
[[nodiscard]] bool is_call_id(const std::string& id);

}  // namespace emoe
