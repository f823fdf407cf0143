#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/text/data_report.h"
#include "worker/text/row.h"
#include "worker/text/tokenizer.h"

namespace emoe::worker {

struct DatasetOptions {
  std::filesystem::path file;
  std::string key = "data.train";  // of the spec, for messages
  std::string format = "alpaca";   // alpaca | text, files as in config/data_check.h
  int64_t max_length = 512;        // tokens of a row, at least 2
  bool train_on_prompt = false;
  double fraction = 1.0;            // the leading ceil(fraction · rows) are used, in (0, 1]
  std::filesystem::path cache_dir;  // tokenised rows by content hash; empty: no cache
  int threads = 1;                  // the rows do not depend on it
  // Called for each row read or tokenised, on any thread, and as in sha256_of_file().
  std::function<void()> on_work_done = [] {};
};

struct Dataset {
  std::vector<Row> rows;  // in file order
  DataReport report;
};

// Reads and tokenises a data set.
//   alpaca  ids = ([BOS] + SP(prompt + output) + [EOS]) cut to max_length; the first
//           len([BOS] + SP(prompt)) are no targets (none are spared with train_on_prompt). Prompts
//           are those of github.com/tatsu-lab/stanford_alpaca. A row with no target left is
//           skipped.
//   text    a document is [BOS] + SP(text) + [EOS]; a longer one is cut into rows of max_length of
//           which every further one starts with BOS again, as any text does at inference. No token
//           is lost and no row mixes documents (packing puts short ones side by side).
// INVALID_ARGUMENT with a violation for each bad row; INVALID_ARGUMENT when no row with a target is
// left; file errors as they come. A cache that does not verify is made anew, one that cannot be
// written is only logged.
[[nodiscard]] Result<Dataset> load_dataset(const DatasetOptions& options,
                                           const Tokenizer& tokenizer);

// The prompt of an Alpaca row (without input: the short form).
[[nodiscard]] std::string alpaca_prompt(const std::string& instruction, const std::string& input);

}  // namespace emoe::worker
