#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"

namespace emoe::launcher {

// Who runs an attempt on an engine with a queue of its own: a link in the attempt's folder that says
// a name, or "withdrawn": nobody ever will. To make a link can be done once, on network file systems
// too, so whatever the engine starts twice or late runs once or not at all.
class AttemptClaim {
 public:
  explicit AttemptClaim(std::filesystem::path link) : link_(std::move(link)) {}

  // What the one who took the attempt calls itself; "" before that, and where it is withdrawn.
  [[nodiscard]] std::string taken_by() const;
  [[nodiscard]] bool withdrawn() const;
  // False when somebody has taken the attempt.
  [[nodiscard]] Result<bool> withdraw() const;

 private:
  std::filesystem::path link_;
};

}  // namespace emoe::launcher
