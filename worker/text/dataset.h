#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/row_warnings.h"
#include "format/tokenizer.h"
#include "worker/text/chat_template.h"
#include "worker/text/data_report.h"
#include "worker/text/row.h"
#include "worker/text/tokenizer_probe.h"

namespace emoe::worker {

struct DatasetOptions {
  std::filesystem::path file;
  std::string key = "data.train";  // of the spec, for messages
  std::string format = "alpaca";   // one of data::row_formats(), files as in data/read_rows.h
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
  std::vector<data::RowKey> sources;  // the file's rows that they are of
  std::vector<ProbeText> probe;       // of the first rows
};

// Reads and tokenises a data set.
//   (Without Tokenizer::has_bos() there is no BOS; a long document's rows then begin with the last
//   token of the row before, which is read there and not predicted again.)
//   messages  ids = ([BOS] + SP(text) + [EOS]) cut to max_length, with the text of all parts that
//             the format's chat template gives; targets are the parts to be learned and the EOS
//             behind the last of them (all but the BOS with train_on_prompt). Where a part ends
//             inside a token, see parts_to_row(). A row with no target left is skipped.
//   text      a document is [BOS] + SP(text) + [EOS]; a longer one is cut into rows of max_length of
//             which every further one starts with BOS again, as any text does at inference. No token
//             is lost and no row mixes documents (packing puts short ones side by side).
// INVALID_ARGUMENT with a violation for each bad row; INVALID_ARGUMENT when no row with a target is
// left; file errors as they come. A cache that does not verify is made anew, one that cannot be
// written is only logged.
[[nodiscard]] Result<Dataset> load_dataset(const DatasetOptions& options,
                                           const Tokenizer& tokenizer);

// One row of text parts, whole and with an EOS. The parts are tokenised together, as inference would
// see their text; a part that ends after the text A ends at token len([BOS] + SP(A)).
[[nodiscard]] Row parts_to_row(const std::vector<TextPart>& parts, const Tokenizer& tokenizer);

}  // namespace emoe::worker
