#include "format/config_keys.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace emoe {
namespace {

constexpr auto kNotes = std::to_array<std::string_view>({"_attn_implementation",
                                                         "_attn_implementation_autoset",
                                                         "_attn_implementation_internal",
                                                         "_commit_hash",
                                                         "_experts_implementation",
                                                         "_flash_attn_2_enabled",
                                                         "_from_model_config",
                                                         "_load_in_4bit",
                                                         "_load_in_8bit",
                                                         "_name_or_path",
                                                         "_output_attentions",
                                                         "_pre_quantization_dtype",
                                                         "attn_implementation",
                                                         "cache_config",
                                                         "dtype",
                                                         "finetuning_task",
                                                         "id2label",
                                                         "is_decoder_config",
                                                         "is_llama_config",
                                                         "keys_to_ignore_at_inference",
                                                         "label2id",
                                                         "load_in_4bit",
                                                         "load_in_8bit",
                                                         "max_sequence_length",
                                                         "model_max_length",
                                                         "name_or_path",
                                                         "num_labels",
                                                         "pad_token_id",
                                                         "prefix",
                                                         "problem_type",
                                                         "task_specific_params",
                                                         "tf_legacy_loss",
                                                         "tie_encoder_decoder",
                                                         "tokenizer_class",
                                                         "tokenizer_model_max_length",
                                                         "tokenizer_padding_side",
                                                         "torch_dtype",
                                                         "transformers.js_config",
                                                         "transformers_version",
                                                         "unk_token_id",
                                                         "unsloth_fixed",
                                                         "unsloth_version",
                                                         "use_bfloat16",
                                                         "use_flash_attention",
                                                         "use_flash_attn"});

constexpr auto kTraining =
    std::to_array<std::string_view>({"gradient_checkpointing", "initializer_range",
                                     "neftune_noise_alpha", "use_gradient_checkpointing"});

constexpr auto kGeneration = std::to_array<std::string_view>({"bad_words_ids",
                                                              "begin_suppress_tokens",
                                                              "cache_implementation",
                                                              "constraints",
                                                              "decoder_start_token_id",
                                                              "diversity_penalty",
                                                              "do_sample",
                                                              "early_stopping",
                                                              "encoder_no_repeat_ngram_size",
                                                              "encoder_repetition_penalty",
                                                              "epsilon_cutoff",
                                                              "eta_cutoff",
                                                              "exponential_decay_length_penalty",
                                                              "force_words_ids",
                                                              "forced_bos_token_id",
                                                              "forced_eos_token_id",
                                                              "guidance_scale",
                                                              "length_penalty",
                                                              "low_memory",
                                                              "max_length",
                                                              "max_new_tokens",
                                                              "max_time",
                                                              "min_length",
                                                              "min_new_tokens",
                                                              "min_p",
                                                              "no_repeat_ngram_size",
                                                              "num_beam_groups",
                                                              "num_beams",
                                                              "num_return_sequences",
                                                              "output_scores",
                                                              "penalty_alpha",
                                                              "remove_invalid_values",
                                                              "renormalize_logits",
                                                              "repetition_penalty",
                                                              "return_dict_in_generate",
                                                              "sep_token_id",
                                                              "sequence_bias",
                                                              "stop_strings",
                                                              "suppress_tokens",
                                                              "temperature",
                                                              "top_k",
                                                              "top_p",
                                                              "typical_p",
                                                              "use_cache"});

}  // namespace

bool changes_nothing(const std::string& key) {
  const auto has = [&](const auto& keys) { return std::ranges::find(keys, key) != keys.end(); };
  return has(kNotes) || has(kTraining) || has(kGeneration);
}

}  // namespace emoe
