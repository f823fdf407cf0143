#pragma once

#include <functional>

#include "metrics/prometheus.h"

namespace emoe::metrics {

// Sets up a server's SSL_CTX of OpenSSL: TLS 1.2 or newer, no sessions that outlive a connection, and for
// each connection the certificates that `source` gives then. A connection for which it gives none that can be
// used is refused. False where OpenSSL refuses. `source` outlives the context.
[[nodiscard]] bool set_up_tls(void* ssl_context, const std::function<ServerTls()>& source);

}  // namespace emoe::metrics
