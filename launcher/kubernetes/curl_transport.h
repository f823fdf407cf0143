#pragma once

#include "launcher/kubernetes/cluster_access.h"
#include "launcher/kubernetes/http.h"

namespace emoe::launcher {

// HTTPS by libcurl. The server's certificate must be one for the name that is asked, signed by the
// CA of `access`; files are read for each exchange, because they are renewed. A connection of its own
// for each exchange: there are few, the watches aside.
class CurlTransport final : public HttpTransport {
 public:
  explicit CurlTransport(ClusterAccess access);
  [[nodiscard]] Result<HttpAnswer> send(const HttpRequest& request,
                                        const std::stop_token& stop) override;

 private:
  const ClusterAccess access_;
};

}  // namespace emoe::launcher
