#include "base/status.h"

#include <cerrno>
#include <cstring>

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>

namespace emoe {

Status with_context(Status status, const std::string& context) {
  if (status.ok()) return status;
  Status wrapped(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&wrapped](absl::string_view type, const absl::Cord& payload) {
    wrapped.SetPayload(type, payload);
  });
  return wrapped;
}

Status errno_status(int error_number, const std::string& what) {
  if (error_number == EFBIG) {  // a size limit (setrlimit) counts as a full disk
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", std::strerror(error_number)));
  }
  return absl::ErrnoToStatus(error_number, what);
}

}  // namespace emoe
