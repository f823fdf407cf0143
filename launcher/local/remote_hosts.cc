#include "launcher/local/remote_hosts.h"

#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include "base/file.h"
#include "base/process.h"

namespace emoe::launcher {
namespace {

// For a POSIX shell.
std::string quoted(const std::string& word) {
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

// The bytes of an address without its port; empty for another family.
std::string address_bytes(const sockaddr* address) {
  if (address == nullptr) return "";
  if (address->sa_family == AF_INET) {
    const auto& ip = reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
    return {reinterpret_cast<const char*>(&ip), sizeof ip};
  }
  if (address->sa_family == AF_INET6) {
    const auto& ip = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    return {reinterpret_cast<const char*>(&ip), sizeof ip};
  }
  return "";
}

bool is_of_an_interface(const std::string& wanted) {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return false;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(first, ::freeifaddrs);
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (address_bytes(entry->ifa_addr) == wanted) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> RemoteHosts::argv(const std::string& host,
                                           const std::vector<std::string>& words) const {
  std::string command;
  for (const std::string& word : words) {
    absl::StrAppend(&command, command.empty() ? "" : " ", quoted(word));
  }
  std::vector<std::string> result = shell;
  result.push_back(host);
  result.push_back(command);
  return result;
}

Status write_hosts(const AttemptFiles& files, const RemoteHosts& hosts) {
  const nlohmann::json json = {{"shell", hosts.shell},         {"hosts", hosts.hosts},
                               {"supervise", hosts.supervise}, {"worker", hosts.worker},
                               {"version", hosts.version},     {"temp", hosts.temp}};
  return write_file_atomically(files.hosts(), json.dump(2) + "\n");
}

Result<RemoteHosts> read_hosts(const AttemptFiles& files) {
  const auto text = read_file(files.hosts());
  if (text.status().code() == StatusCode::kNotFound) return RemoteHosts{};
  EMOE_RETURN_IF_ERROR(text.status());
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError(files.hosts().string() + ": no JSON");
  const std::vector<std::string> none;
  return RemoteHosts{json.value("shell", none),   json.value("hosts", none),
                     json.value("supervise", ""), json.value("worker", ""),
                     json.value("version", ""),   json.value("temp", "")};
}

bool is_this_machine(const std::string& name) {
  if (name == "localhost" || name == host_name()) return true;
  addrinfo* first = nullptr;
  if (::getaddrinfo(name.c_str(), nullptr, nullptr, &first) != 0) return false;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> all(first, ::freeaddrinfo);
  for (const addrinfo* entry = first; entry != nullptr; entry = entry->ai_next) {
    const std::string bytes = address_bytes(entry->ai_addr);
    if (!bytes.empty() && is_of_an_interface(bytes)) return true;
  }
  return false;
}

}  // namespace emoe::launcher
