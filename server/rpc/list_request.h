#pragma once

#include <string>

#include "base/status.h"
#include "server/job/job_store.h"

namespace emoe::server {

// The strings of list requests (google.aip.dev 132, 158, 160), parsed strictly: what does not parse
// is INVALID_ARGUMENT / INVALID_FILTER, INVALID_ORDER_BY, INVALID_PAGE_SIZE or INVALID_PAGE_TOKEN.

struct ListRequest {
  int page_size = 0;  // 0: the default
  std::string page_token;
  std::string filter;    // state=RUNNING|QUEUED AND labels.team=research AND name="two words"
  std::string order_by;  // create_time | priority | name, each with optional asc or desc
};

[[nodiscard]] Result<JobQuery> parse_list_request(const ListRequest& request);

// 0 → `fallback`, above `largest` → `largest`, negative → INVALID_ARGUMENT.
[[nodiscard]] Result<int> parse_page_size(int requested, int fallback, int largest);

// Page tokens carry the place to go on from and a fingerprint of the request they belong to, so
// that one of another request is noticed. They stay good when jobs come and go, and over restarts.
[[nodiscard]] std::string make_page_token(const std::string& request, const std::string& key,
                                          const std::string& id);
[[nodiscard]] Result<JobQuery::Cursor> parse_page_token(const std::string& request,
                                                        const std::string& token);
[[nodiscard]] std::string list_fingerprint(const ListRequest& request);

}  // namespace emoe::server
