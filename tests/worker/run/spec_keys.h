#pragma once

#include <set>
#include <string>

#include <google/protobuf/descriptor.h>

#include "emoe/v1/job_spec.pb.h"

namespace emoe::worker::testing {

inline void add_keys(const google::protobuf::Descriptor& message, const std::string& prefix,
                     std::set<std::string>& keys) {
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    const std::string key = prefix + field.name();
    const auto* below = field.message_type();
    if (below == nullptr || field.is_map() || field.is_repeated() ||
        below->full_name() == "google.protobuf.Duration") {
      keys.insert(key);
    } else {
      add_keys(*below, key + ".", keys);
    }
  }
}

// Every key of a job that has a value of its own: "optimizer.beta1", not "optimizer".
inline std::set<std::string> spec_keys() {
  std::set<std::string> keys;
  add_keys(*v1::JobSpec::descriptor(), "", keys);
  return keys;
}

// "optimizer.beta1" of "optimizer.beta1=0.5".
inline std::string key_of(const std::string& override) {
  return override.substr(0, override.find('='));
}

}  // namespace emoe::worker::testing
