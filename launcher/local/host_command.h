#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/process.h"
#include "launcher/local/remote_hosts.h"

namespace emoe::launcher {

// One command of emoe-supervise on hosts of an attempt, on all of them at once, through the remote
// shell. The owner reaps children and says so.
class HostCommand {
 public:
  // `words`: after "emoe-supervise host". A shell that cannot be started is its host's failure.
  HostCommand(const RemoteHosts& remote, const std::vector<std::string>& hosts,
              const std::vector<std::string>& words, const AttemptFiles& files);

  void ended(pid_t child, const ExitStatus& status);
  [[nodiscard]] bool done() const;
  void kill();  // those that have not ended

  struct Failure {
    std::string host;
    std::string text;  // "host n2 cannot be reached: …", one sentence
  };
  // Of the hosts that did not answer with success, in their order.
  [[nodiscard]] std::vector<Failure> failures() const;
  [[nodiscard]] std::vector<std::string> successes() const;  // hosts

 private:
  struct Run {
    std::string host;
    std::optional<ProcessId> process;
    std::optional<ExitStatus> status;
    std::filesystem::path output;
    std::string trouble;  // it could not be started
    [[nodiscard]] bool succeeded() const;
  };
  [[nodiscard]] std::string explain(const Run& run) const;

  std::string supervise_;
  std::vector<Run> runs_;
};

}  // namespace emoe::launcher
