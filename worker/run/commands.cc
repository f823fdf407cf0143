#include "worker/run/commands.h"

#include <functional>
#include <iostream>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/file.h"
#include "base/input_file.h"
#include "base/log.h"
#include "base/utf8.h"
#include "format/sentencepiece_tokenizer.h"
#include "format/strict_json.h"
#include "text/chat_template.h"
#include "text/text_stream.h"
#include "worker/device/device.h"
#include "worker/eval/generate.h"
#include "worker/model/model.h"
#include "worker/run/experts.h"
#include "worker/run/job_error.h"
#include "worker/run/job_plan.h"
#include "worker/tensor/safetensors.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

// The entries of a JSON file that is one list, `wanted` in words ("a JSON list of strings"). Each
// entry must pass `good`; JobError 65 naming the first that does not, or what the file is instead.
std::vector<nlohmann::json> read_json_list(const std::filesystem::path& path,
                                           const std::string& wanted,
                                           const std::function<bool(const nlohmann::json&)>& good) {
  const std::string content = input_or_throw(read_input(path, InputKind::text));
  const nlohmann::json json = input_or_throw(parse_strict_json(content, path.string()));
  const auto wrong = [&](const std::string& what) {
    return JobError(ExitCode::data,
                    absl::StrCat(path.string(), ": ", what, "; wanted is ", wanted));
  };
  if (!json.is_array()) throw wrong("is not a list");
  for (size_t i = 0; i < json.size(); ++i) {
    if (!good(json[i])) {
      throw wrong(absl::StrCat("entry ", i + 1, " is ", json[i].dump(-1, ' ', true).substr(0, 60)));
    }
  }
  return json.get<std::vector<nlohmann::json>>();
}

std::vector<int64_t> read_tokens(const std::filesystem::path& path, const DecoderConfig& config) {
  const auto is_token = [&](const nlohmann::json& entry) {
    return entry.is_number_unsigned() && std::cmp_less(entry.get<uint64_t>(), config.vocab_size);
  };
  const auto entries = read_json_list(
      path,
      absl::StrCat("a JSON list of token ids, not empty, of a vocabulary of ", config.vocab_size),
      is_token);
  if (entries.empty()) throw JobError(ExitCode::data, path.string() + ": the list is empty");
  std::vector<int64_t> ids;
  for (const auto& entry : entries) ids.push_back(entry.get<int64_t>());
  if (static_cast<int64_t>(ids.size()) > config.max_position_embeddings) {
    throw JobError(ExitCode::data, absl::StrCat(path.string(), ": ", ids.size(),
                                                " tokens, the model has positions for ",
                                                config.max_position_embeddings));
  }
  return ids;
}

// What a command computes with.
struct Computation {
  at::Device device;
  bool bfloat16 = false;
};

// Before anything is computed: LibTorch wants its CUDA part first.
at::Device device_named(const std::string& name) {
  std::string unused_gpu;
  try {
    const at::Device device = find_device(name, /*local_rank=*/0, unused_gpu);
    if (!unused_gpu.empty()) log_warning("computes on the CPU: %s", unused_gpu);
    return device;
  } catch (const std::invalid_argument& error) {
    throw JobError(ExitCode::configuration, absl::StrCat("--device ", error.what()));
  }
}

std::unique_ptr<Model> load_model(const BaseWeights& base, EmoeOptions emoe,
                                  const Computation& computation,
                                  const std::filesystem::path& adapter) {
  ModelOptions options;
  options.config = base.config();
  options.dtype = computation.bfloat16 ? at::kBFloat16 : at::kFloat;
  options.device = computation.device;
  options.emoe = std::move(emoe);
  if (adapter.empty()) return make_model(options, base.source());
  const PeftAdapter peft = input_or_throw(read_peft_adapter(adapter, base.config()));
  options.lora = peft.lora;
  std::unique_ptr<Model> model = make_model(options, base.source());
  input_or_throw(load_peft_adapter(peft, *model));
  return model;
}

bool wants_bfloat16(const std::string& dtype, bool otherwise) {
  if (dtype.empty()) return otherwise;
  if (dtype == "bfloat16") return true;
  if (dtype == "float32") return false;
  throw JobError(ExitCode::configuration, absl::StrCat("--dtype ", dtype, ": float32 or bfloat16"));
}

// Before anything is computed for it.
void check_folder_of(const std::filesystem::path& out) {
  const std::filesystem::path folder = absolute_path(out).parent_path();
  std::error_code error;
  if (std::filesystem::is_directory(folder, error)) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat("--out ", out.string(), ": there is no folder ", folder.string()));
}

// Under a temporary name first: `path` is whole or as it was.
void write_tensors_atomically(const std::filesystem::path& path, const TensorMap& tensors) {
  const std::filesystem::path temporary = absl::StrCat(path.string(), ".tmp.", ::getpid());
  Status status = write_tensors(temporary, tensors, {});
  if (status.ok()) status = rename_durably(temporary, path);
  if (!status.ok()) ::unlink(temporary.c_str());
  output_or_throw(status);
}

// What is read before the new text, and the token that ends an answer there.
struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int64_t> ends;
};

Prompt prompt_of(const GenerateRequest& request, const Tokenizer& tokenizer) {
  if (!request.chat && request.instruction.empty()) return {tokenizer.encode(request.prompt), {}};
  std::vector<data::Message> messages;
  if (!request.chat) {
    messages = {{"user", to_valid_utf8(request.instruction)},
                {"input", to_valid_utf8(request.input)}};
  } else {
    if (!request.system.empty()) messages.push_back({"system", to_valid_utf8(request.system)});
    messages.push_back({"user", to_valid_utf8(request.prompt)});
  }
  const auto chat = input_or_throw(
      load_chat_template(request.chat ? request.chat_template : "alpaca",
                         *data::find_row_format(request.chat ? "chat" : "alpaca"), tokenizer));
  const auto parts = input_or_throw(chat->render(messages, /*ask=*/true));
  std::vector<TextStretch> stretches;
  for (const TextPart& part : parts) stretches.push_back({part.text, part.written});
  return {tokenizer.encode_stretches(stretches, !chat->writes_ends()).ids, {chat->end_of_answer()}};
}

}  // namespace

void write_logits(const LogitsRequest& request) {
  check_folder_of(request.out);
  const at::Device device = device_named(request.device);
  const BaseWeights base = input_or_throw(BaseWeights::open(request.model));
  LogitsPlan plan;
  if (!request.emoe_job.empty()) {
    plan = plan_logits(request.emoe_job, request.partition, base.config());
  } else if (!request.partition.empty()) {
    throw JobError(ExitCode::configuration,
                   "logits: --partition belongs to the experts of a job, give --emoe JOB too");
  }
  const std::vector<int64_t> ids = read_tokens(request.tokens, base.config());
  const auto model =
      load_model(base, make_experts(plan.emoe, base, "", 1),
                 {device, wants_bfloat16(request.dtype, plan.bfloat16)}, request.adapter);
  TensorMap tensors;
  ForwardOptions forward;
  forward.on_choice = [&tensors](const ExpertChoice& choice) {
    tensors[absl::StrCat("experts.", choice.layer)] = expert_indices(choice.selection.mask);
  };
  const at::Tensor logits = model->logits(one_segment(ids), forward).contiguous();
  if (!logits.isfinite().all().item<bool>()) input_or_throw(base.check_finite([] {}));
  tensors["logits"] = logits;
  write_tensors_atomically(request.out, tensors);
}

void generate_text(const GenerateRequest& request) {
  if (request.prompt.empty() && request.instruction.empty()) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat("generate: there is nothing to ",
                                request.chat ? "answer" : "continue", "; write generate --model ",
                                request.model.string(), request.chat ? " --chat" : "",
                                " \"text\", or --instruction \"text\" for the Alpaca template"));
  }
  const Computation computation{device_named(request.device),
                                wants_bfloat16(request.dtype, /*otherwise=*/false)};
  const auto tokenizer = input_or_throw(load_tokenizer(request.model));
  const BaseWeights base = input_or_throw(BaseWeights::open(request.model));
  input_or_throw(tokenizer->check_fits(base.config().vocab_size));
  const Prompt prompt = prompt_of(request, *tokenizer);
  input_or_throw(tokenizer->check_ids(prompt.ids, base.config().vocab_size));
  const auto model = load_model(base, {}, computation, request.adapter);
  TextStream stream(*tokenizer, prompt.ids);
  const auto show = [](const std::string& text) { std::cout << text << std::flush; };
  (void)generate(*model, std::vector<int64_t>(prompt.ids.begin(), prompt.ids.end()),
                 {.max_new_tokens = request.max_tokens,
                  .temperature = request.temperature,
                  .ends = prompt.ends,
                  .on_token = [&](int64_t token) { show(stream.add(static_cast<int32_t>(token))); },
                  .seed = request.seed},
                 ForwardOptions{});
  show(stream.finish());
  std::cout << std::endl;
}

void tokenize_texts(const TokenizeRequest& request) {
  check_folder_of(request.out);
  const auto tokenizer = input_or_throw(load_tokenizer(request.model));
  nlohmann::json ids = nlohmann::json::array();
  const auto texts = read_json_list(request.texts, "a JSON list of strings",
                                    [](const nlohmann::json& entry) { return entry.is_string(); });
  for (const auto& text : texts) ids.push_back(tokenizer->tokenize(text.get<std::string>()));
  output_or_throw(write_file_atomically(request.out, ids.dump() + "\n"));
}

void train_tokenizer_file(const TrainTokenizerRequest& request) {
  check_folder_of(request.out);
  input_or_throw(train_tokenizer(request.text, {.vocab_size = request.vocab_size}, request.out));
}

}  // namespace emoe::worker
