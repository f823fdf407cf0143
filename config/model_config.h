#pragma once

#include "emoe/v1/job_spec.pb.h"
#include "format/decoder_config.h"

namespace emoe::config {

// The shape of a model with a random start; its vocabulary is the tokenizer's, which is not read here.
[[nodiscard]] DecoderConfig config_of_init(const v1::ModelInit& init);

}  // namespace emoe::config
