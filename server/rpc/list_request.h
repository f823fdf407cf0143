#pragma once

#include <optional>
#include <string>

#include "base/diagnostics.h"
#include "base/status.h"
#include "server/job/job_store.h"

namespace emoe::server {

// The strings of list requests (google.aip.dev 132, 158, 160), parsed strictly: what does not parse
// is a problem of its field, and bad_request() makes INVALID_FILTER, INVALID_ORDER_BY,
// INVALID_PAGE_SIZE or INVALID_PAGE_TOKEN of them.

struct ListRequest {
  int page_size = 0;  // 0: the default
  std::string page_token;
  // state=RUNNING|QUEUED AND labels.team=research AND name="two words"; at most 4 KiB
  std::string filter;
  std::string order_by;  // create_time | priority | name, each with optional asc or desc
};

// All problems in one INVALID_ARGUMENT.
[[nodiscard]] Result<JobQuery> parse_list_request(const ListRequest& request);

// 0 → `fallback`, above `largest` → `largest`, negative → a problem.
[[nodiscard]] int parse_page_size(int requested, int fallback, int largest, Diagnostics& problems);

// Page tokens carry the place to go on from and a fingerprint of the request they belong to, so
// that one of another request is noticed. They stay good when jobs come and go, and over restarts.
[[nodiscard]] std::string make_page_token(const std::string& request, const std::string& key,
                                          const std::string& id);
// Nothing for an empty token, and for one that is none of `request` (a problem).
[[nodiscard]] std::optional<JobQuery::Cursor> parse_page_token(const std::string& request,
                                                               const std::string& token,
                                                               Diagnostics& problems);
[[nodiscard]] std::string list_fingerprint(const ListRequest& request);

}  // namespace emoe::server
