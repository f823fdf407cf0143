// The YAML reader: job files, the coordinator's configuration, tokens files. What reads without a fault
// is written and read again, and must be the same.
#include "base/diagnostics.h"
#include "config/config.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace emoe;
  const std::string text(testing::text_of(data, size));
  Diagnostics problems;
  const config::LoadedJob job = config::parse_job(text, "job.yaml", {}, problems);
  const v1::JobSpec resolved = config::check(job.spec, job.locations, std::nullopt, problems);
  if (problems.empty()) {
    Diagnostics none;
    const auto again = config::parse_job(config::message_to_yaml(resolved), "again", {}, none);
    testing::expect(none.empty());
    testing::expect(again.spec.SerializeAsString().size() == resolved.SerializeAsString().size());
  }
  (void)config::parse_coordinator_config(text, "coordinator.yaml", {});
  (void)config::parse_token_file(text, "tokens.yaml");
  return 0;
}
