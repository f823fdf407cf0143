#include "worker/preflight/host_facts.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/process.h"
#include "base/version.h"
#include "worker/preflight/verdicts.h"

namespace emoe::worker {
namespace {

using SteadyClock = std::chrono::steady_clock;

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

std::optional<double> available_memory() {
  std::ifstream lines("/proc/meminfo");
  std::string name;
  std::string unit;
  double kib = 0;
  while (lines >> name >> kib && std::getline(lines, unit)) {
    if (name == "MemAvailable:") return kib * 1024;
  }
  return std::nullopt;
}

double soft_limit(__rlimit_resource which) {
  rlimit limit{};
  if (::getrlimit(which, &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? std::numeric_limits<double>::infinity()
                                         : static_cast<double>(limit.rlim_cur);
}

PreflightRow shared_memory() {
  constexpr const char* kCheck = "/dev/shm free";
  struct statvfs info {};
  if (::statvfs("/dev/shm", &info) != 0) {
    return failed(kCheck, "there is none", "mount a tmpfs at /dev/shm");
  }
  return judged(kCheck, static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize));
}

// Only a network that registers memory needs it.
PreflightRow locked_memory() {
  constexpr const char* kCheck = "memlock limit";
  const double limit = soft_limit(RLIMIT_MEMLOCK);
  std::error_code error;
  const bool registers = std::filesystem::exists("/sys/class/infiniband", error);
  PreflightRow row = judged(kCheck, limit);
  return registers ? row : noted(kCheck, row.value + " (no InfiniBand here needs it)");
}

// CUDA counts the GPUs that CUDA_VISIBLE_DEVICES names, NVML all of the host.
int number_on_host(int gpu) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  std::istringstream names(visible == nullptr ? "" : visible);
  int number = gpu;
  int i = 0;
  for (std::string name; std::getline(names, name, ','); ++i) {
    if (i == gpu && !absl::SimpleAtoi(name, &number)) return gpu;  // by UUID
    if (i == gpu) return number;
  }
  return gpu;
}

// A library that is not there has no version.
void add_nccl(std::vector<PreflightRow>& rows) {
  void* const library = ::dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return;
  using GetVersion = int (*)(int*);
  int number = 0;
  if (const auto get = reinterpret_cast<GetVersion>(::dlsym(library, "ncclGetVersion"));
      get != nullptr && get(&number) == 0) {
    rows.push_back(noted("version of NCCL",
                         absl::StrCat(number / 10000, ".", number / 100 % 100, ".", number % 100)));
  }
  ::dlclose(library);
}

// Writes `bytes` and syncs them; the seconds both took.
Result<std::pair<double, double>> write_and_sync(const std::filesystem::path& file, size_t bytes) {
  const FileDescriptor fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return errno_status(errno, "cannot make " + file.string());
  const std::string block(std::min<size_t>(bytes, 1 << 20), 'x');
  const auto start = SteadyClock::now();
  for (size_t done = 0; done < bytes; done += block.size()) {
    if (::write(fd.get(), block.data(), block.size()) != static_cast<ssize_t>(block.size())) {
      return errno_status(errno, "cannot write " + file.string());
    }
  }
  const auto written = SteadyClock::now();
  if (::fsync(fd.get()) != 0) return errno_status(errno, "cannot sync " + file.string());
  return std::pair(seconds_since(start), seconds_since(written));
}

}  // namespace

std::vector<PreflightRow> host_facts(int gpu) {
  std::vector<PreflightRow> rows;
  rows.push_back(noted("device", gpu < 0 ? absl::StrCat("cpu, ", usable_cores(), " usable cores")
                                         : absl::StrCat("cuda:", gpu)));
  if (const auto memory = available_memory()) rows.push_back(judged("memory free", *memory));
  rows.push_back(shared_memory());
  rows.push_back(locked_memory());
  rows.push_back(judged("open files limit", soft_limit(RLIMIT_NOFILE)));
  rows.push_back(noted("version of emoe", version()));
  add_nccl(rows);
  if (gpu >= 0) {
    const auto gpu_rows = gpu_facts(number_on_host(gpu));
    rows.insert(rows.end(), gpu_rows.begin(), gpu_rows.end());
  }
  return rows;
}

std::string gpu_name(int gpu) {
  const auto rows = gpu_facts(number_on_host(gpu));
  const auto name = std::ranges::find(rows, "GPU", &PreflightRow::check);
  return name == rows.end() ? "" : name->value;
}

std::vector<PreflightRow> disk_facts(const std::filesystem::path& folder) {
  constexpr size_t kBytes = 32 << 20;
  constexpr size_t kSmall = 4096;
  constexpr int kSyncs = 5;
  const auto file = folder / absl::StrCat("preflight.", host_name(), ".", ::getpid(), ".tmp");
  const auto unlinked = [&](const Status& status) {
    ::unlink(file.c_str());
    return std::vector<PreflightRow>{failed("output: write", std::string(status.message()),
                                            "every host must be able to write the output folder")};
  };
  const auto large = write_and_sync(file, kBytes);
  if (!large.ok()) return unlinked(large.status());
  double slowest = 0;
  for (int i = 0; i < kSyncs; ++i) {
    const auto small = write_and_sync(file, kSmall);
    if (!small.ok()) return unlinked(small.status());
    slowest = std::max(slowest, small->second);
  }
  ::unlink(file.c_str());
  return {judged("output: write", static_cast<double>(kBytes) / large->first),
          judged("output: fsync", slowest)};
}

}  // namespace emoe::worker
