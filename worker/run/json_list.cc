#include "worker/run/json_list.h"

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "format/strict_json.h"
#include "worker/run/job_error.h"

namespace emoe::worker {

std::vector<nlohmann::json> read_json_list(const std::filesystem::path& path,
                                           const std::string& wanted,
                                           const std::function<bool(const nlohmann::json&)>& good) {
  const std::string content = input_or_throw(read_file(path));
  const nlohmann::json json = input_or_throw(parse_strict_json(content, path.string()));
  const auto wrong = [&](const std::string& what) {
    return JobError(ExitCode::data,
                    absl::StrCat(path.string(), ": ", what, "; wanted is ", wanted));
  };
  if (!json.is_array()) throw wrong("is not a list");
  for (size_t i = 0; i < json.size(); ++i) {
    if (!good(json[i])) {
      throw wrong(absl::StrCat("entry ", i, " is ", json[i].dump(-1, ' ', true).substr(0, 60)));
    }
  }
  return json.get<std::vector<nlohmann::json>>();
}

}  // namespace emoe::worker
