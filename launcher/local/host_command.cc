#include "launcher/local/host_command.h"

#include <algorithm>
#include <csignal>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <unistd.h>

#include "base/attempt_contract.h"
#include "launcher/local/attempt_processes.h"

namespace emoe::launcher {
namespace {

constexpr int kShellFailed = 255;  // of ssh, where not the command but ssh itself failed

// The host's own answer if there is one, else the last words of the shell.
struct Words {
  std::string answer;
  std::string last;
};
Words words_in(const std::filesystem::path& output) {
  Words words;
  std::istringstream lines(tail_of(output, 4000).value_or(LogTail{}).text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.starts_with(kHostAnswer)) {
      words.answer = line.substr(std::string(kHostAnswer).size());
    } else if (!line.empty()) {
      words.last = line;
    }
  }
  return words;
}

}  // namespace

HostCommand::HostCommand(const RemoteHosts& remote, const std::vector<std::string>& hosts,
                         const std::vector<std::string>& words, const AttemptFiles& files)
    : supervise_(remote.supervise) {
  std::vector<std::string> command{remote.supervise, "host"};
  command.insert(command.end(), words.begin(), words.end());
  for (const std::string& host : hosts) {
    Run& run = runs_.emplace_back(
        Run{host, {}, {}, files.dir() / absl::StrCat("host_", host, ".", words.front()), ""});
    ::unlink(run.output.c_str());
    SpawnOptions options;
    options.argv = remote.argv(host, command);
    options.output = run.output;
    options.die_with_parent = true;
    // It is no process of the attempt: who kills those would only keep us from asking the host.
    options.drop_env = {kAttemptDirVariable};
    const auto process = spawn(options);
    if (process.ok()) {
      run.process = *process;
    } else {
      run.trouble = std::string(process.status().message());
      run.status = ExitStatus{kShellFailed, 0};
    }
  }
}

void HostCommand::ended(pid_t child, const ExitStatus& status) {
  for (Run& run : runs_) {
    if (run.process && run.process->pid == child) run.status = status;
  }
}

bool HostCommand::done() const {
  return std::ranges::all_of(runs_, [](const Run& run) { return run.status.has_value(); });
}

void HostCommand::kill() {
  for (const Run& run : runs_) {
    if (run.process && !run.status) signal_all({*run.process}, SIGKILL);
  }
}

bool HostCommand::Run::succeeded() const {
  return status && status->code == 0 && status->signal == 0;
}

std::vector<std::string> HostCommand::successes() const {
  std::vector<std::string> hosts;
  for (const Run& run : runs_) {
    if (run.succeeded()) hosts.push_back(run.host);
  }
  return hosts;
}

std::vector<HostCommand::Failure> HostCommand::failures() const {
  std::vector<Failure> failures;
  for (const Run& run : runs_) {
    if (run.succeeded()) continue;
    failures.push_back({run.host, absl::StrCat("host ", run.host, " ", explain(run))});
  }
  return failures;
}

std::string HostCommand::explain(const Run& run) const {
  if (!run.trouble.empty()) return absl::StrCat("cannot be reached: ", run.trouble);
  const Words words = words_in(run.output);
  if (!words.answer.empty()) return words.answer;
  const std::string tail = words.last.empty() ? "" : absl::StrCat(": ", words.last);
  if (!run.status || run.status->signal != 0) return absl::StrCat("does not answer in time", tail);
  const int code = run.status->code;
  if (code == kShellFailed) return absl::StrCat("cannot be reached", tail);
  if (code == 126 || code == 127) {
    return absl::StrCat("has no program ", supervise_,
                        ": install emoe there at the same path, or share the folder");
  }
  return absl::StrCat("has another version of ", supervise_,
                      ", which does not know what it is asked; install the same on all hosts");
}

}  // namespace emoe::launcher
