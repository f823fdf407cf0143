#pragma once

#include <string>
#include <vector>

namespace emoe::server {

// What a caller may do, each with what the ones before it may: look at the jobs of its project; make,
// change and cancel them; do so in every project, and look after the service.
enum class Role { viewer, user, admin };

[[nodiscard]] inline const char* to_string(Role role) {
  return role == Role::viewer ? "viewer" : role == Role::user ? "user" : "admin";
}

// Who makes a call. Without authentication everybody is the default one: an admin without a name.
struct Principal {
  std::string name;
  Role role = Role::admin;
  std::string project;
  std::vector<std::string> allowed_roots;  // empty: those of the coordinator
  bool operator==(const Principal&) const = default;

  [[nodiscard]] bool may_see(const std::string& job_project) const {
    return role == Role::admin || project == job_project;
  }
};

}  // namespace emoe::server
