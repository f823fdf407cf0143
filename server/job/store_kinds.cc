// The kinds of runs whose times are known.
#include "server/job/job_store.h"

namespace emoe::server {

Result<std::vector<std::string>> JobStore::learned_kinds() {
  return read([&](Database& database) -> Result<std::vector<std::string>> {
    Statement select(database,
                     "SELECT machine FROM finished_runs GROUP BY machine ORDER BY MAX(time) DESC");
    std::vector<std::string> kinds;
    while (select.next()) kinds.push_back(select.bytes(0));
    EMOE_RETURN_IF_ERROR(select.status());
    return kinds;
  });
}

}  // namespace emoe::server
