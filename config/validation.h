#pragma once

#include <functional>
#include <string>

#include <google/protobuf/message.h>

#include "base/diagnostics.h"
#include "config/config.h"
#include "config/field.h"
#include "config/schema.h"

namespace emoe::config {

// Adds violations of keys, with their places. A key that `diagnostics` held when the reporter was
// made, or one below it, is passed over: a key that could not be read has no value to judge.
class KeyReporter {
 public:
  KeyReporter(const KeyLocations& locations, Diagnostics& diagnostics);
  void operator()(const std::string& key, const std::string& reason) const;

 private:
  const KeyLocations& locations_;
  Diagnostics& diagnostics_;
  size_t earlier_;  // the first so many violations were there before
};

// The parts of check(), for a spec with its defaults. A key that `diagnostics` named before the call
// is passed over.
void validate(const v1::JobSpec& resolved, const KeyLocations& locations, Diagnostics& diagnostics);
void reject_unsupported(const v1::JobSpec& resolved, const KeyLocations& locations,
                        Diagnostics& diagnostics);
void validate_against_model(const v1::JobSpec& resolved, const ModelShape& shape,
                            const KeyLocations& locations, Diagnostics& diagnostics);

// Fills absent fields, in the order of the schema, with default_of(rule), a YAML text; an empty one
// leaves the field absent.
using DefaultOf = std::function<std::string(const FieldRule& rule)>;
void fill_defaults(const Schema& schema, const DefaultOf& default_of,
                   google::protobuf::Message& message);

// Applies the rows: ranges, allowed words, required keys, lengths.
void check_rows(const Schema& schema, const google::protobuf::Message& message,
                const KeyLocations& locations, Diagnostics& diagnostics);

}  // namespace emoe::config
