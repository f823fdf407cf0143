#include "worker/report/host_memory.h"

#include <fstream>

#include <unistd.h>

namespace emoe::worker {

int64_t host_rss_bytes() {
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  return resident_pages * ::sysconf(_SC_PAGESIZE);
}

}  // namespace emoe::worker
