#pragma once

#include <string>

#include "base/status.h"
#include "emoe/v1/service_config.pb.h"

namespace emoe::server {

// Whether an address to listen on is reached from this host only ("127.0.0.1:7070", "localhost:7070",
// "[::1]:0", "unix:…").
[[nodiscard]] bool is_loopback(const std::string& listen);

// "n1" of "n1:7070", "::1" of "[::1]:7070".
[[nodiscard]] std::string host_of(const std::string& address);

// INVALID_ARGUMENT with all that is wrong with tls, auth and where the coordinator listens: beyond
// loopback only with TLS and authentication, or where allow_insecure says so in so many words; pairs of keys
// of which one is missing.
[[nodiscard]] Status check_security(const v1::CoordinatorConfig& config);

// Makes the paths of tls and auth absolute and fills in the empty ones that have a default.
void fill_in_security_paths(v1::CoordinatorConfig& config);

}  // namespace emoe::server
