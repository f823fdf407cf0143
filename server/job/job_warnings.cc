#include "server/job/job_warnings.h"

#include <nlohmann/json.hpp>

namespace emoe::server {

v1::Warning to_message(const Warning& warning) {
  v1::Warning message;
  message.set_code(warning.code);
  message.set_text(warning.text);
  message.set_where(warning.where);
  message.set_count(warning.count);
  message.set_first(warning.first);
  return message;
}

std::string warnings_json(const v1::Job& job) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const v1::Warning& warning : job.warnings()) {
    list.push_back(Warning{.code = warning.code(),
                           .text = warning.text(),
                           .where = warning.where(),
                           .count = warning.count(),
                           .first = warning.first()});
  }
  return list.dump(1) + "\n";
}

}  // namespace emoe::server
