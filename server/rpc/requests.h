#pragma once

#include <string>

#include <google/protobuf/message.h>

#include "base/status.h"
#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/control/controller.h"

namespace emoe::server {

// The key under which a mutating request is remembered: its request_id, method, and a hash of
// everything else in it. INVALID_ARGUMENT / INVALID_REQUEST_ID above 128 characters.
[[nodiscard]] Result<RequestKey> request_key(const std::string& method,
                                             const std::string& request_id,
                                             const google::protobuf::Message& request);

// What an UpdateJob asks for. INVALID_ARGUMENT / INVALID_UPDATE_MASK for an empty mask or a path
// that cannot be changed.
[[nodiscard]] Result<JobUpdate> parse_update(const v1::UpdateJobRequest& request);

}  // namespace emoe::server
