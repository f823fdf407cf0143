#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "worker/run/rank_environment.h"

namespace emoe::worker {

// The commands of emoe-worker. Each returns when done and throws JobError (or what the numeric code
// throws) otherwise; main turns that into the exit code.

struct RunRequest {
  std::filesystem::path job_file;
  std::filesystem::path out;
  std::vector<std::string> overrides;  // --set
  // Instead of training: a folder with the checkpoint that is to be exported; empty: the task.
  std::filesystem::path checkpoint;
};
// `emoe-worker run`; returns the exit code, since an ordered stop (75) is no error.
[[nodiscard]] int run_job(const RunRequest& request, const RankEnvironment& environment);

struct LogitsRequest {
  std::filesystem::path model;
  std::filesystem::path tokens;  // JSON: one list of ids
  // safetensors: logits [T, vocab] fp32; experts.<layer> [T, k] int32, ascending
  std::filesystem::path out;
  std::filesystem::path emoe_job;   // takes its emoe section and model.dtype; empty: dense, float32
  std::filesystem::path partition;  // partition/ folder, with emoe_job; empty: made as it says
  std::filesystem::path adapter;    // PEFT folder; empty: none
  std::string dtype;                // empty: the job's, else float32
  std::string device = "cpu";       // as resources.device of a job
};
void write_logits(const LogitsRequest& request);

struct TokenizeRequest {
  std::filesystem::path model;  // folder or tokenizer.model
  std::filesystem::path texts;  // JSON list of strings
  std::filesystem::path out;    // JSON list of id lists, BOS first
};
void tokenize_texts(const TokenizeRequest& request);

struct GenerateRequest {
  std::filesystem::path model;
  std::filesystem::path adapter;
  std::string prompt;
  bool chat = false;   // the prompt is a turn of the user, put into the chat template
  std::string system;  // with chat: the system's turn before it
  std::string chat_template = "auto";  // with chat: as data.template
  std::string instruction;             // instead of a prompt: put into the Alpaca template
  std::string input;
  int64_t max_tokens = 100;
  double temperature = 0.0;  // 0: greedy
  int64_t seed = 0;
  std::string dtype = "float32";  // or bfloat16
  std::string device = "cpu";     // as resources.device of a job
};
// Prints the continuation on standard output as it grows, in valid UTF-8; with chat it stops where the
// template ends an answer.
void generate_text(const GenerateRequest& request);

struct TrainTokenizerRequest {
  std::filesystem::path text;
  std::filesystem::path out;
  int32_t vocab_size = 2048;
};
void train_tokenizer_file(const TrainTokenizerRequest& request);

}  // namespace emoe::worker
