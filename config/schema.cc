#include "config/schema.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "format/tensor_table.h"

namespace emoe::config {
namespace {

const std::vector<std::string> kSlurmKeys{"partition",  "account",        "qos",
                                          "constraint", "ranks_per_node", "gpus_per_rank",
                                          "time_limit", "extra_args"};

const std::vector<std::string> kKubernetesKeys{"queue",         "image",           "ranks_per_pod",
                                               "gpus_per_rank", "memory_per_rank", "shm_size"};

std::vector<std::string> target_words() {
  std::vector<std::string> words = linear_names();
  words.emplace_back(kAllLinear);
  return words;
}

constexpr double kMaxCount = 2147483647;
constexpr double kYear = 365.0 * 86'400;

}  // namespace

// clang-format off
const Schema& job_schema() {
  // Defaults that depend on other keys (learning_rate, export.adapter, …) are in default_of() of
  // config.cc.
  static const Schema rows{
      {.key = "name", .fallback = "\"\"", .max_bytes = 128},
      {.key = "task", .fallback = "train", .words = {"train", "evaluate", "merge", "preflight", "convert", "analyze"}},
      {.key = "adapter", .fallback = "\"\"", .tasks = {"evaluate", "merge"}, .path = true},
      {.key = "model", .fallback = "{}"},
      {.key = "model.path", .path = true},
      {.key = "model.dtype", .fallback = "bfloat16", .tasks = {"train", "evaluate"}, .words = {"float32", "bfloat16"}},
      {.key = "model.init", .tasks = {"train"}},
      {.key = "model.init.hidden_size", .low = at_least(1), .high = at_most(1 << 20), .required = true},
      {.key = "model.init.intermediate_size", .low = at_least(1), .high = at_most(1 << 22), .required = true},
      {.key = "model.init.num_hidden_layers", .low = at_least(1), .high = at_most(4096), .required = true},
      {.key = "model.init.num_attention_heads", .low = at_least(1), .high = at_most(4096), .required = true},
      {.key = "model.init.num_key_value_heads", .fallback = "0", .low = at_least(0), .high = at_most(4096)},
      {.key = "model.init.max_position_embeddings", .fallback = "2048", .low = at_least(2), .high = at_most(1 << 24)},
      {.key = "model.init.rms_norm_eps", .fallback = "1.0e-5", .low = above(0), .high = at_most(1)},
      {.key = "model.init.rope_theta", .fallback = "10000.0", .low = above(0)},
      {.key = "model.init.tie_word_embeddings", .fallback = "false"},
      {.key = "model.init.initializer_range", .fallback = "0.02", .low = above(0), .high = at_most(10)},
      {.key = "model.init.tokenizer", .required = true, .path = true},
      {.key = "model.init.seed", .fallback = "42", .low = at_least(0)},
      {.key = "data", .fallback = "{}"},
      {.key = "data.train", .tasks = {"train"}, .path = true},
      {.key = "data.eval", .fallback = "\"\"", .tasks = {"train", "evaluate"}, .path = true},
      {.key = "data.format", .fallback = "alpaca", .tasks = {"train", "evaluate"}, .words = {"alpaca", "chat", "completion", "text"}},
      {.key = "data.max_length", .fallback = "512", .tasks = {"train", "evaluate"}, .low = at_least(2), .high = at_most(1 << 24)},
      {.key = "data.train_on_prompt", .fallback = "false", .tasks = {"train", "evaluate"}},
      {.key = "data.packing", .fallback = "true", .tasks = {"train", "evaluate"}},
      {.key = "data.shuffle", .fallback = "true", .tasks = {"train"}},
      {.key = "data.fraction", .fallback = "1.0", .tasks = {"train"}, .low = above(0), .high = at_most(1)},
      {.key = "data.strict", .fallback = "false"},
      {.key = "data.train_files", .tasks = {"train"}},
      {.key = "data.train_files.path", .tasks = {"train"}, .required = true, .path = true},
      {.key = "data.train_files.weight", .tasks = {"train"}, .low = above(0), .high = at_most(1000)},
      {.key = "data.eval_fraction", .tasks = {"train"}, .low = above(0), .high = below(1)},
      {.key = "data.template", .fallback = "auto", .tasks = {"train", "evaluate"}, .words = {"auto", "llama2", "llama3", "chatml", "mistral", "alpaca"}},
      {.key = "data.fields", .tasks = {"train", "evaluate"}, .max_bytes = 256, .max_entries = 64},
      {.key = "data.answers", .fallback = "all", .tasks = {"train", "evaluate"}, .words = {"all", "last"}},
      {.key = "tuning", .fallback = "lora", .tasks = {"train"}, .words = {"lora", "full"}},
      {.key = "lora", .tasks = {"train"}},
      {.key = "lora.rank", .fallback = "8", .low = at_least(1), .high = at_most(65536)},
      {.key = "lora.alpha", .fallback = "16.0", .low = above(0), .high = at_most(1e6)},
      {.key = "lora.dropout", .fallback = "0.05", .low = at_least(0), .high = below(1)},
      {.key = "lora.targets", .fallback = "[q_proj, v_proj]", .words = target_words()},
      {.key = "lora.init_adapter", .fallback = "\"\"", .path = true},
      {.key = "lora.use_rslora", .fallback = "false"},
      {.key = "emoe", .tasks = {"train", "evaluate", "convert"}},
      {.key = "emoe.experts", .low = at_least(0), .high = at_most(1 << 20), .required = true},
      {.key = "emoe.top_k", .tasks = {"train", "evaluate"}, .low = at_least(1), .high = at_most(1 << 20)},
      {.key = "emoe.layers"},
      {.key = "emoe.layers.start", .low = at_least(0), .high = at_most(4096)},
      {.key = "emoe.layers.every", .low = at_least(1), .high = at_most(4096)},
      {.key = "emoe.layers.list", .low = at_least(0), .high = at_most(4096)},
      {.key = "emoe.partition", .fallback = "{}"},
      {.key = "emoe.partition.method", .fallback = "kmeans", .words = {"kmeans", "random", "contiguous", "coactivation", "file"}},
      {.key = "emoe.partition.restarts", .fallback = "10", .low = at_least(1), .high = at_most(10000)},
      {.key = "emoe.partition.seed", .fallback = "0", .low = at_least(0)},
      {.key = "emoe.partition.path", .fallback = "\"\"", .path = true},
      {.key = "emoe.selector", .fallback = "top", .tasks = {"train", "evaluate"}, .words = {"top", "bottom", "not_top"}},
      {.key = "emoe.gate", .fallback = "average", .tasks = {"train", "evaluate"}, .words = {"average", "learned"}},
      {.key = "optimizer", .fallback = "{}", .tasks = {"train"}},
      {.key = "optimizer.learning_rate", .low = above(0)},
      {.key = "optimizer.schedule", .fallback = "cosine", .words = {"cosine", "linear", "constant"}},
      {.key = "optimizer.warmup_ratio", .fallback = "0.03", .low = at_least(0), .high = below(1)},
      {.key = "optimizer.weight_decay", .fallback = "0.0", .low = at_least(0)},
      {.key = "optimizer.max_grad_norm", .fallback = "1.0", .low = at_least(0)},
      {.key = "optimizer.beta1", .fallback = "0.9", .low = at_least(0), .high = below(1)},
      {.key = "optimizer.beta2", .fallback = "0.999", .low = at_least(0), .high = below(1)},
      {.key = "optimizer.epsilon", .fallback = "1.0e-8", .low = above(0)},
      {.key = "train", .fallback = "{}", .tasks = {"train", "evaluate"}},
      {.key = "train.epochs", .fallback = "3", .tasks = {"train"}, .low = at_least(0), .high = at_most(1e6)},
      {.key = "train.max_steps", .fallback = "0", .tasks = {"train"}, .low = at_least(0), .high = at_most(kMaxCount)},
      {.key = "train.global_batch", .fallback = "128", .tasks = {"train"}, .low = at_least(1), .high = at_most(1 << 24)},
      {.key = "train.drop_last", .fallback = "true", .tasks = {"train"}},
      {.key = "train.loss_reduction", .fallback = "token", .tasks = {"train"}, .words = {"token", "example"}},
      {.key = "train.seed", .fallback = "42", .tasks = {"train"}, .low = at_least(0)},
      {.key = "train.eval_every", .fallback = "0", .tasks = {"train"}, .low = at_least(0), .high = at_most(kMaxCount)},
      {.key = "train.log_every", .fallback = "1", .tasks = {"train"}, .low = at_least(1), .high = at_most(kMaxCount)},
      {.key = "train.micro_batch_tokens", .fallback = "0", .tasks = {"train", "evaluate"}, .low = at_least(0), .high = at_most(kMaxCount)},
      {.key = "train.recompute", .fallback = "false", .tasks = {"train"}},
      {.key = "checkpoint", .fallback = "{}", .tasks = {"train"}},
      {.key = "checkpoint.every_steps", .fallback = "50", .low = at_least(0), .high = at_most(kMaxCount)},
      {.key = "checkpoint.keep", .fallback = "3", .low = at_least(1), .high = at_most(1e6)},
      {.key = "parallel", .fallback = "{}"},
      {.key = "parallel.ranks", .fallback = "1", .low = at_least(1), .high = at_most(65536)},
      {.key = "parallel.tensor", .fallback = "1", .low = at_least(1), .high = at_most(65536)},
      {.key = "parallel.shard_base", .fallback = "false"},
      {.key = "parallel.min_ranks", .fallback = "0", .low = at_least(0), .high = at_most(65536)},
      {.key = "export", .fallback = "{}", .tasks = {"train", "merge", "convert"}},
      {.key = "export.dtype", .fallback = "auto", .tasks = {"train", "merge"}, .words = {"auto", "float32", "bfloat16", "float16"}},
      {.key = "export.merged", .fallback = "true", .tasks = {"train"}},
      {.key = "export.adapter", .tasks = {"train"}},
      {.key = "export.original_order", .fallback = "true", .tasks = {"train", "convert"}},
      {.key = "export.verify", .fallback = "true"},
      {.key = "evaluate", .tasks = {"train", "evaluate"}},
      {.key = "evaluate.suite", .fallback = "mmlu", .words = {"mmlu"}},
      {.key = "evaluate.path", .required = true, .path = true},
      {.key = "evaluate.shots", .fallback = "5", .low = at_least(0), .high = at_most(100)},
      {.key = "evaluate.split", .fallback = "test", .folder = true, .max_bytes = 128},
      {.key = "evaluate.subjects", .folder = true, .max_bytes = 128},
      {.key = "evaluate.limit", .fallback = "0", .low = at_least(0), .high = at_most(kMaxCount)},
      {.key = "evaluate.max_length", .fallback = "0", .low = at_least(0), .high = at_most(1 << 24)},
      {.key = "merge", .tasks = {"merge"}},
      {.key = "merge.adapters", .required = true, .path = true, .max_entries = 64},
      {.key = "merge.weights", .low = at_least(-1000), .high = at_most(1000), .max_entries = 64},
      {.key = "resources", .fallback = "{}"},
      {.key = "resources.device", .fallback = "auto", .words = {"auto", "cpu", "cuda"}},
      {.key = "resources.max_runtime", .fallback = "0s", .low = at_least(0), .high = at_most(10 * kYear)},
      {.key = "resources.priority", .fallback = "0", .low = at_least(-1000), .high = at_most(1000)},
      {.key = "resources.max_attempts", .fallback = "3", .low = at_least(1), .high = at_most(100)},
      {.key = "resources.threads_per_rank", .fallback = "0", .low = at_least(0), .high = at_most(4096)},
      {.key = "resources.preflight", .fallback = "false"},
      {.key = "resources.slurm"},
      {.key = "resources.slurm.partition", .max_bytes = 256},
      {.key = "resources.slurm.account", .max_bytes = 256},
      {.key = "resources.slurm.qos", .max_bytes = 256},
      {.key = "resources.slurm.constraint", .max_bytes = 256},
      {.key = "resources.slurm.ranks_per_node", .low = at_least(0), .high = at_most(65536)},
      {.key = "resources.slurm.gpus_per_rank", .low = at_least(0), .high = at_most(64)},
      {.key = "resources.slurm.time_limit", .low = at_least(0), .high = at_most(kYear)},
      {.key = "resources.slurm.extra_args", .option = true, .max_entries = 64},
      {.key = "resources.kubernetes"},
      {.key = "resources.kubernetes.queue", .max_bytes = 63},
      {.key = "resources.kubernetes.image"},
      {.key = "resources.kubernetes.ranks_per_pod", .low = at_least(0), .high = at_most(4096)},
      {.key = "resources.kubernetes.gpus_per_rank", .low = at_least(0), .high = at_most(64)},
      {.key = "resources.kubernetes.memory_per_rank", .memory = true, .max_bytes = 64},
      {.key = "resources.kubernetes.shm_size", .memory = true, .max_bytes = 64},
      {.key = "labels", .max_bytes = 256, .max_entries = 64},
      {.key = "hashes"},
      {.key = "hashes.model", .max_bytes = 64},
      {.key = "hashes.tokenizer", .max_bytes = 64},
      {.key = "hashes.train", .max_bytes = 64},
      {.key = "hashes.eval", .max_bytes = 64},
      {.key = "hashes.program", .max_bytes = 64},
      {.key = "hashes.adapter", .max_bytes = 64},
      {.key = "hashes.partition", .max_bytes = 64},
      {.key = "hashes.suite", .max_bytes = 64},
  };
  return rows;
}

const Schema& coordinator_schema() {
  static const Schema rows{
      {.key = "listen", .fallback = "127.0.0.1:7070", .required = true, .address = true, .max_bytes = 256},
      {.key = "metrics_listen", .fallback = "127.0.0.1:7071", .required = true, .address = true, .max_bytes = 256},
      {.key = "state_dir", .fallback = "emoe-state", .required = true, .path = true},
      {.key = "output_root", .fallback = "\"\"", .path = true},
      {.key = "allowed_roots", .path = true},
      {.key = "slots", .fallback = "{}"},
      {.key = "slots.total", .fallback = "0", .low = at_least(0), .high = at_most(1e6)},
      {.key = "slots.host_memory", .fallback = "0", .low = at_least(0)},
      {.key = "slots.device_memory", .fallback = "0", .low = at_least(0)},
      {.key = "queue", .fallback = "{}"},
      {.key = "queue.max_jobs", .fallback = "1000", .low = at_least(1), .high = at_most(1e7)},
      {.key = "queue.elastic_wait", .fallback = "60s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "queue.preempt", .fallback = "false"},
      {.key = "queue.min_run", .fallback = "60s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "liveness", .fallback = "{}"},
      {.key = "liveness.join_timeout", .fallback = "120s", .low = above(0), .high = at_most(kYear)},
      {.key = "liveness.session_timeout", .fallback = "30s", .low = above(0), .high = at_most(kYear)},
      {.key = "liveness.progress_timeout", .fallback = "600s", .low = above(0), .high = at_most(kYear)},
      {.key = "liveness.stop_grace", .fallback = "30s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "liveness.reconnect_grace", .fallback = "300s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "liveness.retry_pause", .fallback = "5s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "liveness.drain_period", .fallback = "1s", .low = at_least(0), .high = at_most(60)},
      {.key = "launcher", .fallback = "{}"},
      {.key = "launcher.kind", .fallback = "local", .words = {"local", "slurm", "kubernetes"}},
      {.key = "launcher.worker_program", .fallback = "\"\""},
      {.key = "launcher.mpirun", .fallback = "mpirun", .required = true},
      {.key = "launcher.mpirun_args"},
      {.key = "launcher.log_limit_bytes", .fallback = "67108864", .low = at_least(65536), .high = at_most(1e15)},
      {.key = "launcher.slurm", .fallback = "{}"},
      {.key = "launcher.slurm.partition", .fallback = "\"\"", .max_bytes = 256},
      {.key = "launcher.slurm.account", .fallback = "\"\"", .max_bytes = 256},
      {.key = "launcher.slurm.qos", .fallback = "\"\"", .max_bytes = 256},
      {.key = "launcher.slurm.constraint", .fallback = "\"\"", .max_bytes = 256},
      {.key = "launcher.slurm.ranks_per_node", .fallback = "0", .low = at_least(0), .high = at_most(65536)},
      {.key = "launcher.slurm.gpus_per_rank", .fallback = "0", .low = at_least(0), .high = at_most(64)},
      {.key = "launcher.slurm.time_limit", .fallback = "0s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "launcher.slurm.extra_args", .option = true, .max_entries = 64},
      {.key = "launcher.slurm.job_may_set", .fallback = "[partition, qos, constraint, ranks_per_node, gpus_per_rank, time_limit]", .words = kSlurmKeys},
      {.key = "launcher.slurm.warning_time", .fallback = "300s", .low = at_least(0), .high = at_most(65535)},
      {.key = "launcher.slurm.poll_interval", .fallback = "5s", .low = above(0), .high = at_most(3600)},
      {.key = "launcher.slurm.command_limit", .fallback = "30s", .low = above(0), .high = at_most(3600)},
      {.key = "launcher.slurm.bin_dir", .fallback = "\"\"", .path = true},
      {.key = "launcher.kubernetes", .fallback = "{}"},
      {.key = "launcher.kubernetes.server", .fallback = "\"\""},
      {.key = "launcher.kubernetes.ca_file", .fallback = "\"\"", .path = true},
      {.key = "launcher.kubernetes.token_file", .fallback = "\"\"", .path = true},
      {.key = "launcher.kubernetes.kubeconfig", .fallback = "\"\"", .path = true},
      {.key = "launcher.kubernetes.context", .fallback = "\"\"", .max_bytes = 256},
      {.key = "launcher.kubernetes.namespace", .fallback = "\"\"", .max_bytes = 63},
      {.key = "launcher.kubernetes.image", .fallback = "\"\""},
      {.key = "launcher.kubernetes.queue", .fallback = "\"\"", .max_bytes = 63},
      {.key = "launcher.kubernetes.template", .fallback = "\"\"", .path = true},
      {.key = "launcher.kubernetes.ranks_per_pod", .fallback = "1", .low = at_least(1), .high = at_most(4096)},
      {.key = "launcher.kubernetes.gpus_per_rank", .fallback = "0", .low = at_least(0), .high = at_most(64)},
      {.key = "launcher.kubernetes.gpu_resource", .fallback = "nvidia.com/gpu", .max_bytes = 256},
      {.key = "launcher.kubernetes.memory_per_rank", .fallback = "\"\"", .memory = true, .max_bytes = 64},
      {.key = "launcher.kubernetes.shm_size", .fallback = "1Gi", .required = true, .memory = true, .max_bytes = 64},
      {.key = "launcher.kubernetes.grace_period", .fallback = "300s", .low = at_least(5), .high = at_most(86'400)},
      {.key = "launcher.kubernetes.start_timeout", .fallback = "600s", .low = at_least(1), .high = at_most(kYear)},
      {.key = "launcher.kubernetes.request_limit", .fallback = "30s", .low = above(0), .high = at_most(3600)},
      {.key = "launcher.kubernetes.job_may_set", .fallback = "[queue, ranks_per_pod, gpus_per_rank, memory_per_rank, shm_size]", .words = kKubernetesKeys},
      {.key = "launcher.hosts", .max_entries = 1024},
      {.key = "launcher.hosts.name", .required = true, .max_bytes = 253},
      {.key = "launcher.hosts.slots", .low = at_least(1), .high = at_most(4096), .required = true},
      {.key = "launcher.hosts.gpus", .fallback = "0", .low = at_least(0), .high = at_most(64)},
      {.key = "launcher.remote_shell", .fallback = "[ssh, -o, BatchMode=yes, -o, ConnectTimeout=10]", .max_entries = 64},
      {.key = "launcher.host_pause", .fallback = "60s", .low = at_least(0), .high = at_most(kYear)},
      {.key = "log_level", .fallback = "info", .words = {"debug", "info", "warning", "error"}},
      {.key = "advertise", .fallback = "\"\"", .address = true, .reachable = true, .max_bytes = 256},
      {.key = "jobs_root", .fallback = "\"\"", .path = true},
      {.key = "tls", .fallback = "{}"},
      {.key = "tls.certificate", .fallback = "\"\"", .path = true},
      {.key = "tls.key", .fallback = "\"\"", .path = true},
      {.key = "tls.client_ca", .fallback = "\"\"", .path = true},
      {.key = "tls.metrics", .fallback = "true"},
      {.key = "tls.ranks_ca", .fallback = "\"\"", .path = true},
      {.key = "tls.ranks_certificate", .fallback = "\"\"", .path = true},
      {.key = "tls.ranks_key", .fallback = "\"\"", .path = true},
      {.key = "auth", .fallback = "{}"},
      {.key = "auth.tokens", .fallback = "\"\"", .path = true},
      {.key = "auth.audit", .fallback = "\"\"", .path = true},
      {.key = "auth.quotas", .max_entries = 4096},
      {.key = "auth.quotas.project", .fallback = "\"\"", .max_bytes = 128},
      {.key = "auth.quotas.slots", .fallback = "0", .low = at_least(0), .high = at_most(1e6)},
      {.key = "auth.quotas.queued_jobs", .fallback = "0", .low = at_least(0), .high = at_most(1e6)},
      {.key = "auth.quotas.disk", .fallback = "0", .low = at_least(0)},
      {.key = "allow_insecure", .fallback = "false"},
      {.key = "reflection", .fallback = "true"},
      {.key = "limits", .fallback = "{}"},
      {.key = "limits.message_bytes", .fallback = "16777216", .low = at_least(65536), .high = at_most(1 << 30)},
      {.key = "limits.streams_per_client", .fallback = "1000", .low = at_least(1), .high = at_most(1e6)},
      {.key = "limits.calls_per_second", .fallback = "1000.0", .low = at_least(0), .high = at_most(1e6)},
      {.key = "limits.call_burst", .fallback = "2000", .low = at_least(1), .high = at_most(1e6)},
      {.key = "limits.keepalive", .fallback = "30s", .low = at_least(1), .high = at_most(3600)},
      {.key = "retention", .fallback = "0s", .low = at_least(0), .high = at_most(100 * kYear)},
  };
  return rows;
}

const Schema& token_schema() {
  static const Schema rows{
      {.key = "tokens", .max_entries = 100'000},
      {.key = "tokens.name", .required = true, .max_bytes = 128},
      {.key = "tokens.sha256", .required = true, .max_bytes = 64},
      {.key = "tokens.role", .words = {"viewer", "user", "admin"}, .required = true},
      {.key = "tokens.project", .max_bytes = 128},
      {.key = "tokens.allowed_roots", .path = true},
  };
  return rows;
}
// clang-format on

bool is_training(const v1::JobSpec& spec) {
  return !std::set<std::string>{"evaluate", "merge", "convert", "preflight"}.contains(spec.task());
}

bool is_used(const FieldRule& rule, const v1::JobSpec& spec) {
  if (spec.task() == "preflight") {  // of ranks and hosts alone
    static constexpr const char* kKeys[] = {"name", "task", "parallel", "resources", "labels"};
    const std::string first = rule.key.substr(0, rule.key.find('.'));
    return std::ranges::find(kKeys, first) != std::end(kKeys);
  }
  const auto uses = [&rule](const std::string& task) {
    return std::ranges::find(rule.tasks, task) != rule.tasks.end();
  };
  return rule.tasks.empty() || uses(is_training(spec) ? "train" : spec.task());
}

}  // namespace emoe::config
