#include "metrics/tls_server.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <list>
#include <thread>

#include <absl/strings/str_cat.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/log.h"
#include "metrics/tls_context.h"

namespace emoe::metrics {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{10};  // for a whole request and its answer
constexpr size_t kConnections = 32;
constexpr size_t kLargestHead = 16 << 10;

Result<FileDescriptor> listen_on(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string service = std::to_string(port);
  if (const int code = ::getaddrinfo(host.c_str(), service.c_str(), &hints, &found); code != 0) {
    return absl::UnavailableError(::gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  FileDescriptor fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      ::bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 || ::listen(fd.get(), 64) != 0) {
    return absl::UnavailableError(std::strerror(errno));
  }
  return fd;
}

int port_of(const FileDescriptor& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

// One connection: each step of OpenSSL is tried until it is done, the time is over or the server stops.
class Connection {
 public:
  Connection(SSL_CTX* context, FileDescriptor fd, int stop)
      : fd_(std::move(fd)), stop_(stop), ssl_(SSL_new(context), &SSL_free) {
    if (ssl_ != nullptr) SSL_set_fd(ssl_.get(), fd_.get());
  }

  [[nodiscard]] bool accept() {
    return ssl_ != nullptr && again([&] { return SSL_accept(ssl_.get()); }) == 1;
  }
  // The path of a GET; empty for what is none.
  [[nodiscard]] std::string read_path() {
    std::string head;
    while (head.find("\r\n\r\n") == std::string::npos && head.size() < kLargestHead) {
      char part[4096];
      const int got = again([&] { return SSL_read(ssl_.get(), part, sizeof part); });
      if (got <= 0) return "";
      head.append(part, static_cast<size_t>(got));
    }
    if (!head.starts_with("GET /")) return "";
    const size_t end = head.find_first_of(" ?\r\n", 4);
    return head.substr(4, end == std::string::npos ? end : end - 4);
  }
  void write(const std::string& text) {
    size_t done = 0;
    while (done < text.size()) {
      const int size = static_cast<int>(std::min<size_t>(text.size() - done, 1 << 20));
      const int put = again([&] { return SSL_write(ssl_.get(), text.data() + done, size); });
      if (put <= 0) return;
      done += static_cast<size_t>(put);
    }
    (void)again([&] { return SSL_shutdown(ssl_.get()); });
  }

 private:
  template <typename Step>
  int again(const Step& step) {
    while (true) {
      ERR_clear_error();
      const int result = step();
      if (result > 0) return result;
      const int error = SSL_get_error(ssl_.get(), result);
      if (error == SSL_ERROR_WANT_READ && wait(POLLIN)) continue;
      if (error == SSL_ERROR_WANT_WRITE && wait(POLLOUT)) continue;
      return 0;
    }
  }
  bool wait(short events) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end_ - Clock::now());
    if (left.count() <= 0) return false;
    pollfd fds[] = {{fd_.get(), events, 0}, {stop_, POLLIN, 0}};
    return ::poll(fds, 2, static_cast<int>(left.count())) > 0 && fds[1].revents == 0;
  }

  const FileDescriptor fd_;
  const int stop_;
  const Clock::time_point end_ = Clock::now() + kPatience;
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
};

const char* phrase_of(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

}  // namespace

struct TlsServer::State {
  explicit State(Config given) : config(std::move(given)) {}
  ~State() {
    const uint64_t one = 1;
    if (stop.valid() && ::write(stop.get(), &one, sizeof one) < 0) log_error("metrics: no stop");
    acceptor = {};  // joins
    connections.clear();
  }

  void run() {
    pthread_setname_np(pthread_self(), "metrics-tls");
    // A client that is gone is an error of the write, no signal, here and in the threads from here.
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    while (true) {
      pollfd fds[] = {{listener.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) return;
      FileDescriptor fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      connections.remove_if([](const Served& served) { return served.done->load(); });
      if (!fd.valid()) {
        // Out of descriptors: the queue waits until there are some.
        if (errno == EMFILE || errno == ENFILE)
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        continue;
      }
      if (connections.size() >= kConnections) continue;
      auto done = std::make_shared<std::atomic<bool>>(false);
      connections.push_back({done, std::jthread([this, done, given = std::move(fd)]() mutable {
                               serve(std::move(given));
                               done->store(true);
                             })});
    }
  }

  void serve(FileDescriptor fd) {
    try {
      Connection connection(context.get(), std::move(fd), stop.get());
      if (!connection.accept()) return;
      const std::string path = connection.read_path();
      if (path.empty()) return;
      const Answer answer = config.answer(path);
      connection.write(absl::StrCat("HTTP/1.1 ", answer.code, " ", phrase_of(answer.code),
                                    "\r\nContent-Type: ", answer.type,
                                    "\r\nContent-Length: ", answer.body.size(),
                                    "\r\nConnection: close\r\n\r\n", answer.body));
    } catch (const std::exception& error) {
      log_error("metrics server: %s", error.what());
    }
  }

  struct Served {
    std::shared_ptr<std::atomic<bool>> done;
    std::jthread thread;
  };
  const Config config;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{SSL_CTX_new(TLS_server_method()),
                                                            &SSL_CTX_free};
  FileDescriptor listener;
  FileDescriptor stop{::eventfd(0, EFD_CLOEXEC)};
  std::list<Served> connections;  // of `acceptor` alone, while it runs
  std::jthread acceptor;
};

TlsServer::TlsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsServer::~TlsServer() = default;
int TlsServer::port() const {
  return port_of(state_->listener);
}

Result<std::unique_ptr<TlsServer>> TlsServer::start(Config config) {
  auto state = std::make_unique<State>(std::move(config));
  EMOE_ASSIGN_OR_RETURN(state->listener, listen_on(state->config.host, state->config.port));
  if (state->context == nullptr || !set_up_tls(state->context.get(), state->config.tls)) {
    return absl::InternalError("OpenSSL refuses a server's context");
  }
  state->acceptor = std::jthread([self = state.get()] { self->run(); });
  return std::unique_ptr<TlsServer>(new TlsServer(std::move(state)));
}

}  // namespace emoe::metrics
