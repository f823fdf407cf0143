#pragma once

#include <vector>

#include "data/choice_suite.h"
#include "format/tokenizer.h"
#include "server/job/job_warnings.h"

namespace emoe::server {

// How much there is to ask. Only some of the texts are tokenised, so that nobody waits for it; the others
// have as many tokens a byte.
[[nodiscard]] SuiteFacts facts_of_suite(const std::vector<data::ChoiceSubject>& subjects,
                                        const Tokenizer& tokenizer);

}  // namespace emoe::server
