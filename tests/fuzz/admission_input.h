#pragma once

#include <string>
#include <string_view>

#include "config/config.h"
#include "server/job/admission.h"
#include "tests/format/model_folder.h"
#include "tests/fuzz/fuzz_folder.h"

namespace emoe::testing {

// The files that the specs of the seeds name: a model, an adapter for it, rows in several formats, a suite.
inline void write_admission_files(const std::filesystem::path& folder) {
  write_model_folder(folder / "model", small_config());
  write_adapter_folder(folder / "adapter", small_config());
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder / name).parent_path());
    write_bytes(folder / name, text);
  };
  std::string alpaca;
  for (int i = 0; i < 9; ++i) {
    alpaca += R"({"instruction": "a)" + std::to_string(i) +
              R"(", "input": "", "output": "b"})"
              "\n";
  }
  write("alpaca.jsonl", alpaca);
  write("chat.jsonl",
        R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"
        "\n"
        R"({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})"
        "\n");
  write("text.txt", "first document of some words\n\nsecond document\n\nthird\n");
  write("suite/dev/things_dev.csv", "1 + 1?,1,2,3,4,B\n");
  write("suite/test/things_test.csv", "2 + 2?,1,2,3,4,D\n3 + 1?,1,2,3,4,D\n");
}

// One job through admission: YAML, or behind a byte 0 a serialised JobSpec. Nothing outside `folder` is read.
// True where it was let in. What is to hold of every job: it is let in with a plan, or refused with
// problems that each name a key and a reason; and what was resolved resolves to itself.
inline bool admit_input(const std::filesystem::path& folder, std::string_view input,
                        const std::vector<std::string>& overrides = {}) {
  v1::JobSpec spec;
  Diagnostics diagnostics;
  if (input.starts_with('\0')) {
    if (!spec.ParseFromArray(input.data() + 1, static_cast<int>(input.size()) - 1)) return false;
  } else {
    spec = config::parse_job(std::string(input), "job.yaml", overrides, diagnostics).spec;
  }
  config::make_paths_absolute(spec, folder);
  // Of a small host, so that remedies are looked for as well.
  const server::AdmissionConfig admission{.allowed_roots = {folder},
                                          .engine = "slurm",
                                          .engine_keys = {"partition"},
                                          .capacity = {.host_bytes = 180 << 20, .slots = 4}};
  Diagnostics problems;
  server::Findings found;
  const v1::JobSpec resolved = server::admit(spec, admission, problems, &found);
  for (const Violation& violation : problems.violations()) {
    expect(!violation.reason.empty() && !(violation.field.empty() && violation.location.empty()));
  }
  if (!problems.empty()) return false;
  (void)server::check_fits(found.plan);
  expect(config::resolve(resolved).SerializeAsString() == resolved.SerializeAsString() ||
         resolved.labels_size() > 1);  // maps have no order
  return true;
}

}  // namespace emoe::testing
