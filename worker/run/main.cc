// emoe-worker: one rank of a job, and the small tools around it. Everything that fails ends here,
// as a message on standard error and one of the exit codes of base/exit_code.h.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <absl/strings/str_cat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "worker/run/commands.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

void add_run(CLI::App& app, RunRequest& request) {
  CLI::App* run = app.add_subcommand(
      "run",
      "Run a job without a coordinator: alone, or as one rank under mpirun or srun.\n"
      "The same command again continues an interrupted run from its newest valid checkpoint.\n"
      "Relative paths in the job file are relative to the current folder.");
  run->add_option("JOB.yaml", request.job_file,
                  "job file; configs/ has some, proto/emoe/v1/job_spec.proto lists the keys")
      ->required();
  run->add_option("--out", request.out, "output folder; made if it does not exist")->required();
  run->add_option("--set", request.overrides,
                  "KEY=VALUE over the job file, e.g. optimizer.learning_rate=1e-4")
      ->allow_extra_args(false);
  run->add_option(
      "--export-checkpoint", request.checkpoint,
      "train nothing: export what the newest checkpoint in this folder holds, of a run of\n"
      "this job (its checkpoints/, or a copy of one); --out is another folder than the run's");
  run->add_flag_callback(
      "--strict", [&request] { request.overrides.emplace_back("data.strict=true"); },
      "warnings are errors: --set data.strict=true");
}

void add_device(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device, "cpu, cuda (the first GPU), or auto: a GPU if there is one")
      ->capture_default_str();
}

void add_logits(CLI::App& app, LogitsRequest& request) {
  CLI::App* logits =
      app.add_subcommand("logits", "Write the logits of a token sequence to a safetensors file.");
  logits->add_option("--model", request.model, "Hugging Face folder")->required();
  logits->add_option("--tokens", request.tokens, "JSON file with one list of token ids")
      ->required();
  logits->add_option("--out", request.out, "safetensors file to write")->required();
  logits->add_option("--emoe", request.emoe_job, "job file whose emoe section is applied");
  logits->add_option("--partition", request.partition,
                     "partition/ folder of a run (default: made as the job says)");
  logits->add_option("--adapter", request.adapter, "PEFT folder");
  logits->add_option("--dtype", request.dtype,
                     "float32 or bfloat16 (default: the job's, else float32)");
  add_device(*logits, request.device);
}

void add_tokenize(CLI::App& app, TokenizeRequest& request) {
  CLI::App* tokenize = app.add_subcommand(
      "tokenize", "Turn a JSON list of strings into lists of token ids, BOS first.");
  tokenize->add_option("--model", request.model, "model folder or tokenizer.model")->required();
  tokenize->add_option("--texts", request.texts, "JSON file with a list of strings")->required();
  tokenize->add_option("--out", request.out, "JSON file to write")->required();
}

void add_generate(CLI::App& app, GenerateRequest& request) {
  CLI::App* generate = app.add_subcommand("generate", "Continue a prompt and print the new text.");
  generate->add_option("--model", request.model, "Hugging Face folder")->required();
  generate->add_option("--adapter", request.adapter, "PEFT folder");
  CLI::Option* prompt = generate->add_option("--prompt,prompt", request.prompt,
                                             "text to continue; --prompt may be left out");
  CLI::Option* chat = generate->add_flag(
      "--chat", request.chat,
      "the prompt is a turn of the user: it is put into the chat template, and the\n"
      "answer ends where the template ends it");
  generate->add_option("--system", request.system, "the system's turn before it")->needs(chat);
  generate->add_option("--template", request.chat_template, "as data.template of a job")
      ->needs(chat)
      ->check(CLI::IsMember({"auto", "llama2", "llama3", "chatml", "mistral", "alpaca"}))
      ->capture_default_str();
  generate
      ->add_option("--instruction", request.instruction,
                   "an instruction, put into the Alpaca template")
      ->excludes(prompt)
      ->excludes(chat);
  generate->add_option("--input", request.input, "the template's input");
  generate->add_option("--max-tokens", request.max_tokens, "tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  generate->add_option("--temperature", request.temperature, "0 takes the likeliest token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  generate->add_option("--seed", request.seed, "of the sampling")->capture_default_str();
  generate->add_option("--dtype", request.dtype, "float32 or bfloat16")->capture_default_str();
  add_device(*generate, request.device);
}

void add_train_tokenizer(CLI::App& app, TrainTokenizerRequest& request) {
  CLI::App* train = app.add_subcommand(
      "train-tokenizer", "Train a Llama-style SentencePiece tokenizer from a text file.");
  train->add_option("--text", request.text, "UTF-8 text, a sentence a line")->required();
  train->add_option("--vocab-size", request.vocab_size, "pieces, 259 of them bytes and control")
      ->capture_default_str();
  train->add_option("--out", request.out, "tokenizer.model to write")->required();
}

int report_failure(const RankEnvironment& environment, const std::exception& error) {
  const int code = static_cast<int>(exit_code_of(error));
  std::fprintf(stderr, "emoe-worker: %s%s\n",
               environment.launched ? absl::StrCat("rank ", environment.rank, ": ").c_str() : "",
               error.what());
  return code;
}

int dispatch(int argc, char** argv, RankEnvironment& environment) {
  CLI::App app(
      "emoe-worker: fine-tunes Llama-like models with EMoE (arXiv 2310.10908) and gives back a "
      "dense "
      "checkpoint.");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("emoe-worker ") + version());
  app.footer(
      "Exit codes: 0 done, 64 configuration, 65 data, 70 internal, 71 peer or coordinator lost, 74 "
      "I/O,\n"
      "75 stopped by a signal, a training run with a checkpoint, 76 non-finite numbers, 77 not "
      "enough memory.");
  RunRequest run;
  LogitsRequest logits;
  TokenizeRequest tokenize;
  GenerateRequest generate;
  TrainTokenizerRequest tokenizer;
  add_run(app, run);
  add_logits(app, logits);
  add_tokenize(app, tokenize);
  add_generate(app, generate);
  add_train_tokenizer(app, tokenizer);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::configuration);
  }
  environment = read_rank_environment();
  init_logging(environment.launched ? absl::StrCat("worker rank=", environment.rank) : "worker");
  int code = 0;
  if (app.got_subcommand("run")) code = run_job(run, environment);
  if (app.got_subcommand("logits")) write_logits(logits);
  if (app.got_subcommand("tokenize")) tokenize_texts(tokenize);
  if (app.got_subcommand("generate")) generate_text(generate);
  if (app.got_subcommand("train-tokenizer")) train_tokenizer_file(tokenizer);
  return code;
}

// OpenMP's threads wait for their next piece of work by asking without a pause, for some ten
// milliseconds, and so keep the core from whoever needs it: beside other work a step took ten times
// as long. They are to ask for about as long as waking one up takes: on two cores a step of a small
// model then takes 1.1 times the time of one whose threads never sleep, and half of it where two
// jobs share the cores. OpenMP reads that as it is loaded, before main: the process starts itself
// again with the variable set, unless its user has said how threads wait.
void let_threads_wait_asleep(int argc, char** argv) {
  constexpr std::string_view kComputing[] = {"run", "logits", "generate"};
  const bool computes =
      argc > 1 && std::ranges::find(kComputing, std::string_view(argv[1])) != std::end(kComputing);
  if (!computes) return;
  for (const char* variable : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}) {
    if (std::getenv(variable) != nullptr) return;
  }
  ::setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/1);
  ::execv("/proc/self/exe", argv);  // fails: they wait as they did
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  emoe::worker::let_threads_wait_asleep(argc, argv);
  emoe::worker::RankEnvironment environment;
  int code = 0;
  try {
    code = emoe::worker::dispatch(argc, argv, environment);
  } catch (const std::exception& error) {
    code = emoe::worker::report_failure(environment, error);
  }
  // No static destructors: after a failure, MPI and NCCL threads may still be inside their
  // libraries.
  std::fflush(nullptr);
  ::_exit(code);
}
