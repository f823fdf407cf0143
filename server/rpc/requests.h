#pragma once

#include <map>
#include <optional>
#include <string>

#include <google/protobuf/message.h>

#include "base/diagnostics.h"
#include "base/status.h"
#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/control/controller.h"

namespace emoe::server {

// All problems of a request in one INVALID_ARGUMENT; OK if there are none. Its reason is `reason`, or
// without one that of the first problem's field: INVALID_PAGE_SIZE for page_size. It is
// INVALID_REQUEST_ID where request_id is the only problem.
[[nodiscard]] Status bad_request(const Diagnostics& problems, const std::string& reason = "");

// The key under which a mutating request is remembered: its request_id, method, and a hash of
// everything else in it. A problem of request_id above 128 characters.
[[nodiscard]] RequestKey request_key(const std::string& method, const std::string& request_id,
                                     const google::protobuf::Message& request,
                                     Diagnostics& problems);

// The change that an UpdateJob asks for. Problems of update_mask: empty, a path that cannot be
// changed, or a value that a spec could not have.
[[nodiscard]] JobUpdate parse_update(const v1::UpdateJobRequest& request, Diagnostics& problems);

// ListJobs (google.aip.dev 132, 158, 160), parsed strictly: page_size, page_token, order_by
// (create_time | priority | name, each with optional asc or desc) and filter, at most 4 KiB of
//   state=RUNNING|QUEUED AND labels.team=research AND name="two words" AND project=x
// All problems in one INVALID_ARGUMENT.
[[nodiscard]] Result<JobQuery> parse_list_request(const v1::ListJobsRequest& request);

// A filter of ListAuditEntries: the values that fields must have. INVALID_ARGUMENT, with what is wrong.
[[nodiscard]] Result<std::map<std::string, std::string>> parse_audit_filter(
    const std::string& filter);

// 0 → `fallback`, above `largest` → `largest`, negative → a problem.
[[nodiscard]] int parse_page_size(int requested, int fallback, int largest, Diagnostics& problems);

// A page token holds where the next page begins and a fingerprint of its request, so that a token of
// another request is refused. It stays valid when jobs come and go, and over restarts.
[[nodiscard]] std::string make_page_token(const std::string& request, const std::string& key,
                                          const std::string& id);
// Nothing for an empty token, and for one that does not belong to `request` (a problem).
[[nodiscard]] std::optional<JobQuery::Cursor> parse_page_token(const std::string& request,
                                                               const std::string& token,
                                                               Diagnostics& problems);
[[nodiscard]] std::string list_fingerprint(const v1::ListJobsRequest& request);

}  // namespace emoe::server
