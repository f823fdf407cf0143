#include "launcher/local/attempt_files.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/exit_code.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/utf8.h"

namespace emoe::launcher {
namespace {

using nlohmann::json;

std::string dump(const json& value) {
  // Output of ranks may be no UTF-8.
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<json> read_json(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return absl::DataLossError(absl::StrCat(path.string(), ": no JSON"));
  return value;
}

// By the number of the cause.
constexpr const char* kCauses[] = {"ranks",     "preempted",   "time_limit",   "node_lost",
                                   "cancelled", "not_started", "host_unusable"};

// The same for everyone who knows the attempt's folder.
std::string private_name(const std::filesystem::path& dir) {
  return absl::StrCat(AttemptFiles::kMpiDirPrefix, sha256_hex(dir.string()).substr(0, 16));
}

bool is_echo(const RankExit& exit) {
  return exit.status.code == static_cast<int>(ExitCode::peer_lost) || exit.status.signal == SIGTERM;
}

}  // namespace

std::filesystem::path AttemptFiles::rank_start(int rank) const {
  return dir_ / absl::StrCat("rank_", rank, ".start");
}

std::filesystem::path AttemptFiles::rank_exit(int rank) const {
  return dir_ / absl::StrCat("rank_", rank, ".exit");
}

std::filesystem::path AttemptFiles::temp() const {
  if (!temp_.empty()) return temp_;
  std::error_code error;
  const auto folder = std::filesystem::temp_directory_path(error);
  return error ? std::filesystem::path("/tmp") : folder;
}

std::filesystem::path AttemptFiles::mpi_session_dir() const {
  return temp() / private_name(dir_);
}

std::filesystem::path AttemptFiles::mpi_memory_dir() const {
  return std::filesystem::path("/dev/shm") / private_name(dir_);
}

void AttemptFiles::remove_mpi_dirs() const {
  std::error_code ignored;
  std::filesystem::remove_all(mpi_session_dir(), ignored);
  std::filesystem::remove_all(mpi_memory_dir(), ignored);
}

Result<bool> file_exists(const std::filesystem::path& path) {
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  if (error) return errno_status(error.value(), absl::StrCat("cannot look at ", path.string()));
  return there;
}

Status write_launch(const AttemptFiles& files, const LaunchRecord& record) {
  return write_file_atomically(files.launch(), dump({{"job_id", record.job_id},
                                                     {"attempt", record.attempt},
                                                     {"ranks", record.ranks},
                                                     {"argv", record.argv}}));
}

Result<LaunchRecord> read_launch(const AttemptFiles& files) {
  EMOE_ASSIGN_OR_RETURN(const json value, read_json(files.launch()));
  return LaunchRecord{value.value("job_id", ""), value.value("attempt", 0), value.value("ranks", 0),
                      value.value("argv", std::vector<std::string>())};
}

Status write_supervisor(const AttemptFiles& files, const ProcessId& process) {
  EMOE_ASSIGN_OR_RETURN(const std::string boot, boot_id());
  return write_file_atomically(
      files.supervisor(),
      dump({{"pid", process.pid}, {"start_ticks", process.start_ticks}, {"boot_id", boot}}));
}

Result<ProcessId> read_supervisor(const AttemptFiles& files) {
  EMOE_ASSIGN_OR_RETURN(const json value, read_json(files.supervisor()));
  EMOE_ASSIGN_OR_RETURN(const std::string boot, boot_id());
  if (value.value("boot_id", "") != boot) {
    return absl::NotFoundError(absl::StrCat(files.supervisor().string(), " is of another boot"));
  }
  return ProcessId{value.value("pid", 0), value.value("start_ticks", uint64_t{0})};
}

Status write_end(const AttemptFiles& files, const AttemptEnd& end) {
  json value = {{"cause", kCauses[static_cast<size_t>(end.cause)]},
                {"exit_code", end.exit_code},
                {"signal", end.signal},
                {"out_of_memory", end.out_of_memory},
                {"process", end.process},
                {"host", end.host},
                {"detail", end.detail}};
  if (end.rank) value["rank"] = *end.rank;
  return write_file_atomically(files.end(), dump(value));
}

Result<AttemptEnd> read_end(const AttemptFiles& files) {
  EMOE_ASSIGN_OR_RETURN(const json value, read_json(files.end()));
  AttemptEnd end;
  const auto cause = std::ranges::find(kCauses, value.value("cause", std::string(kCauses[0])));
  if (cause != std::end(kCauses)) end.cause = static_cast<EndCause>(cause - std::begin(kCauses));
  end.exit_code = value.value("exit_code", 0);
  end.signal = value.value("signal", 0);
  end.out_of_memory = value.value("out_of_memory", false);
  end.process = value.value("process", "");
  end.host = value.value("host", "");
  end.detail = value.value("detail", "");
  if (value.contains("rank")) end.rank = value.value("rank", 0);
  return end;
}

int64_t monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

Status write_rank_exit(const AttemptFiles& files, const RankExit& exit) {
  return write_file_atomically(files.rank_exit(exit.rank),
                               dump({{"exit_code", exit.status.code},
                                     {"signal", exit.status.signal},
                                     {"monotonic_ns", exit.monotonic_ns},
                                     {"out_of_memory", exit.out_of_memory},
                                     {"last_lines", exit.last_lines}}));
}

std::vector<RankExit> read_rank_exits(const AttemptFiles& files, int ranks) {
  std::vector<RankExit> exits;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto value = read_json(files.rank_exit(rank));
    if (!value.ok()) continue;
    exits.push_back({rank,
                     {value->value("exit_code", 0), value->value("signal", 0)},
                     value->value("monotonic_ns", int64_t{0}),
                     value->value("last_lines", ""),
                     value->value("out_of_memory", false)});
  }
  return exits;
}

std::optional<RankExit> first_failure(const std::vector<RankExit>& exits) {
  std::optional<RankExit> first;
  for (const RankExit& exit : exits) {
    if (exit.status.code == 0 && exit.status.signal == 0) continue;
    const auto order = [](const RankExit& e) { return std::pair(is_echo(e), e.monotonic_ns); };
    if (!first || order(exit) < order(*first)) first = exit;
  }
  return first;
}

AttemptEnd end_without_supervisor(const AttemptFiles& files, int ranks) {
  if (const auto failure = first_failure(read_rank_exits(files, ranks))) {
    return {.exit_code = failure->status.code,
            .signal = failure->status.signal,
            .rank = failure->rank,
            .detail = failure->last_lines};
  }
  return {.signal = SIGKILL,
          .process = "the supervisor of the attempt (emoe-supervise)",
          .detail = "what it had started died with it"};
}

bool killed_for_memory(const RankExit& exit, const std::vector<int64_t>& counted_ns) {
  // The supervisor samples the counter several times a second, so it may see a kill late; a killed
  // rank is reaped only after its memory is freed, so it may die late.
  constexpr int64_t kSeenLate = 1'000'000'000;
  constexpr int64_t kDiesLate = 3'000'000'000;
  return exit.status.signal == SIGKILL &&
         std::any_of(counted_ns.begin(), counted_ns.end(), [&](int64_t counted) {
           return exit.monotonic_ns >= counted - kSeenLate &&
                  exit.monotonic_ns <= counted + kDiesLate;
         });
}

AttemptEnd end_by_files(const AttemptFiles& files, int ranks, ExitStatus starter,
                        const std::string& name) {
  if (const auto failure = first_failure(read_rank_exits(files, ranks))) {
    return {.exit_code = failure->status.code,
            .signal = failure->status.signal,
            .rank = failure->rank,
            .out_of_memory = failure->out_of_memory,
            .detail = failure->last_lines};
  }
  if (starter.code == 0 && starter.signal == 0) return {};
  if (starter.code > 128) starter = {0, starter.code - 128};
  constexpr size_t kDetailBytes = 1000;
  const LogTail tail = tail_of(files.output(), kDetailBytes).value_or(LogTail{});
  return {.exit_code = starter.code,
          .signal = starter.signal,
          .process = name,
          .detail = to_valid_utf8(tail.text)};
}

std::string text_of(const AttemptFiles& files, const char* name) {
  std::string text = read_file(files.dir() / name).value_or("");
  text.erase(text.find_last_not_of(" \n") + 1);
  return text;
}

std::string words_of_mpirun(const std::string& log) {
  std::istringstream lines(log);
  std::string words;
  for (std::string line; std::getline(lines, line);) {
    const size_t number = line.find_first_not_of("0123456789", 1);
    const bool of_rank = line.starts_with('[') && number > 1 && line.substr(number, 2) == "] ";
    if (!of_rank && line.find_first_not_of("-") != std::string::npos) {
      absl::StrAppend(&words, line, "\n");
    }
  }
  return words;
}

Result<LogTail> tail_of(const std::filesystem::path& file, size_t bytes) {
  const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return LogTail{};
  const off_t size = fd.valid() ? ::lseek(fd.get(), 0, SEEK_END) : -1;
  if (size < 0) return errno_status(errno, "open " + file.string());
  // One byte more tells whether the tail begins a line.
  const size_t wanted = std::min(static_cast<size_t>(size), bytes + 1);
  LogTail tail{std::string(wanted, '\0'), wanted > bytes};
  const ssize_t got =
      ::pread(fd.get(), tail.text.data(), wanted, size - static_cast<off_t>(wanted));
  if (got < 0) return errno_status(errno, "read " + file.string());
  tail.text.resize(static_cast<size_t>(got));
  if (!tail.truncated) return tail;
  const size_t line = tail.text.find('\n') + 1;  // 0 when there is none
  tail.text.erase(0, line == 0 || line == tail.text.size() ? 1 : line);
  return tail;
}

Result<LogTail> log_of(const AttemptFiles& files, size_t bytes) {
  EMOE_ASSIGN_OR_RETURN(LogTail tail, tail_of(files.output(), bytes));
  tail.text = to_valid_utf8(tail.text);
  return tail;
}

}  // namespace emoe::launcher
