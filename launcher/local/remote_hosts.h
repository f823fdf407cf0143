#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "launcher/local/attempt_files.h"

namespace emoe::launcher {

// Every line that emoe-supervise prints about its host begins so: what else comes over the remote shell
// is the shell's own.
inline constexpr char kHostAnswer[] = "emoe-host: ";

// The hosts of an attempt that are not this machine, and what the supervisor needs to work there.
// Stored as hosts.json in the attempt's folder.
struct RemoteHosts {
  std::vector<std::string> shell;  // argv before host and command
  std::vector<std::string> hosts;
  std::string supervise;  // program, the same path everywhere
  std::string worker;
  std::string version;  // that worker and supervisor are to have
  std::string temp;     // folder for MPI's temporary files, the same path everywhere

  // Runs `words` on `host`; the remote shell takes them as they are.
  [[nodiscard]] std::vector<std::string> argv(const std::string& host,
                                              const std::vector<std::string>& words) const;
  // Of `emoe-supervise host`, see check_host() and sweep_host().
  [[nodiscard]] std::vector<std::string> check_words(const AttemptFiles& files) const {
    return {"check", files.dir().string(), temp, worker, version};
  }
  [[nodiscard]] std::vector<std::string> sweep_words(const AttemptFiles& files) const {
    return {"sweep", files.dir().string(), temp};
  }
};
[[nodiscard]] Status write_hosts(const AttemptFiles& files, const RemoteHosts& hosts);
// Without hosts where the attempt has none.
[[nodiscard]] Result<RemoteHosts> read_hosts(const AttemptFiles& files);

// Whether a host's name means the machine that this process runs on.
[[nodiscard]] bool is_this_machine(const std::string& name);

// What `emoe-supervise host check|sweep` does on a host of an attempt. Exit code 0, or 64 with one line on
// standard output: kHostAnswer and what is wrong, to be read after the host's name.
//   check: sees the attempt's folder, has this version of emoe-supervise and of `worker`, and Open
//          MPI's orted; makes the folders for MPI, and removes those of attempts that ended while this
//          host could not be reached
//   sweep: kills every process of the attempt, until there is none, and removes MPI's folders
[[nodiscard]] int check_host(const AttemptFiles& files, const std::string& worker,
                             const std::string& wanted_version);
[[nodiscard]] int sweep_host(const AttemptFiles& files);

}  // namespace emoe::launcher
