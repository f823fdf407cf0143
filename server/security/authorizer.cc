#include "server/security/authorizer.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "server/job/errors.h"

namespace emoe::server {

const MethodRule* rule_of(std::string_view method) {
  const auto* const found = std::ranges::find_if(
      kMethodRules, [&](const MethodRule& rule) { return rule.method == method; });
  return found == kMethodRules.end() ? nullptr : found;
}

Status check_role(std::string_view method, const Principal& principal) {
  const MethodRule* const rule = rule_of(method);
  if (rule != nullptr && principal.role >= rule->least) return ok_status();
  const std::string least = rule == nullptr ? "no" : to_string(rule->least);
  return make_error(StatusCode::kPermissionDenied, "ROLE_TOO_LOW",
                    absl::StrCat(std::string(method), " takes the role ", least, ", the token \"",
                                 principal.name, "\" has ", to_string(principal.role)),
                    {{"role", to_string(principal.role)}, {"needed", least}});
}

}  // namespace emoe::server
