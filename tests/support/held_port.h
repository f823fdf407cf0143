#pragma once

#include <cstdint>
#include <string>

#include <netinet/in.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/file.h"

namespace emoe::testing {

// A port of 127.0.0.1 that is nobody else's as long as the object lives: no other process gets it
// as a free one, and while no server of the test's listens on it, connections are refused. A server
// may listen on it if it sets SO_REUSEADDR, as gRPC does.
class HeldPort {
 public:
  HeldPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int yes = 1;
    EMOE_CHECK(::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
    sockaddr_in place{};
    place.sin_family = AF_INET;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof place;
    auto* const address = reinterpret_cast<sockaddr*>(&place);
    EMOE_CHECK(::bind(socket_.get(), address, size) == 0);
    EMOE_CHECK(::getsockname(socket_.get(), address, &size) == 0);
    port_ = ntohs(place.sin_port);
  }

  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  FileDescriptor socket_;
  uint16_t port_ = 0;
};

}  // namespace emoe::testing
