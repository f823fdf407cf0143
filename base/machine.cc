#include "base/machine.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>

#include "base/file.h"

namespace emoe {
namespace {

// Of "KEY: 123 kB" in a file of /proc, in bytes; 0 without such a line.
int64_t kilobytes_of(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

// The limit of a control group; 0 where it has none.
int64_t limit_of(const std::filesystem::path& group) {
  for (const char* file : {"memory.max", "memory.limit_in_bytes"}) {
    const auto text = read_file(group / file);
    int64_t limit = 0;
    if (text.ok() && absl::SimpleAtoi(*text, &limit)) return limit;  // "max" is no number
  }
  return 0;
}

// What /proc/cpuinfo says of the first processor; empty where it says nothing.
std::string of_processor(const std::string& key) {
  std::ifstream lines("/proc/cpuinfo");
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    line.erase(0, colon + 1);
    absl::StripAsciiWhitespace(&line);
    return line;
  }
  return "";
}

}  // namespace

int64_t process_memory(const std::string& name) {
  return kilobytes_of("/proc/self/status", name);
}

std::string processor_name() {
  const std::string name = of_processor("model name");
  return name.empty() ? "processor" : name;
}

bool processor_has(const std::string& flag) {
  const std::vector<std::string> flags = absl::StrSplit(of_processor("flags"), ' ');
  return std::ranges::find(flags, flag) != flags.end();
}

int64_t usable_memory(const ControlGroups& groups) {
  int64_t bytes = kilobytes_of("/proc/meminfo", "MemTotal");
  const auto take = [&](int64_t limit) {
    if (limit > 0 && bytes > 0) bytes = std::min(bytes, limit);
  };
  std::istringstream memberships(read_file(groups.own).value_or(""));
  for (std::string line; std::getline(memberships, line);) {
    const bool unified = line.starts_with("0::");
    if (!unified && line.find(":memory:") == std::string::npos) continue;
    const auto mount = unified ? groups.mount : groups.mount / "memory";
    // Up to the root, which in a container is its own group, whatever path the line has.
    for (std::filesystem::path path = "." + line.substr(line.rfind(':') + 1);;
         path = path.parent_path()) {
      take(limit_of(mount / path));
      if (path.empty()) break;
    }
  }
  return bytes;
}

}  // namespace emoe
