#pragma once

#include <string>

#include <google/protobuf/message.h>

#include "base/diagnostics.h"
#include "base/status.h"
#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/control/controller.h"

namespace emoe::server {

// All problems of a request in one INVALID_ARGUMENT; OK if there are none. Without a `reason` it has
// that of the first one's field: INVALID_PAGE_SIZE for page_size. INVALID_REQUEST_ID where that is
// the only one.
[[nodiscard]] Status bad_request(const Diagnostics& problems, const std::string& reason = "");

// The key under which a mutating request is remembered: its request_id, method, and a hash of
// everything else in it. A problem of request_id above 128 characters.
[[nodiscard]] RequestKey request_key(const std::string& method, const std::string& request_id,
                                     const google::protobuf::Message& request,
                                     Diagnostics& problems);

// What an UpdateJob asks for. Problems of update_mask: empty, a path that cannot be changed, or a
// value that a spec could not have.
[[nodiscard]] JobUpdate parse_update(const v1::UpdateJobRequest& request, Diagnostics& problems);

}  // namespace emoe::server
