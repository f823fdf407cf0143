#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/row_warnings.h"
#include "data/selection.h"
#include "format/tokenizer.h"
#include "text/chat_template.h"
#include "text/data_report.h"
#include "text/row.h"
#include "text/tokenizer_probe.h"

namespace emoe {

// What a data set is made of, with data.train and the like in words, and how.
struct DatasetOptions {
  std::vector<data::WeightedFile> files;
  std::string key = "data.train";      // of the spec, for messages
  std::string format = "alpaca";       // one of data::row_formats(), files as in data/read_rows.h
  std::string chat_template = "auto";  // data.template, see load_chat_template()
  data::FieldNames fields;
  bool last_answer_only = false;  // of a conversation
  int64_t max_length = 512;       // tokens of a row, at least 2
  bool train_on_prompt = false;
  double fraction = 1.0;   // the leading ceil(fraction · rows) of each file are used, in (0, 1]
  data::HeldOut held_out;  // of the rows, what belongs to this data set
  int64_t seed = 0;        // by which rows are held out and drawn
  std::filesystem::path cache_dir;  // tokenised rows by content hash; empty: no cache
  int threads = 1;                  // the rows do not depend on it
  int64_t shown_rows = 0;           // of Dataset::shown; not from a cache
  // Called for each row read or tokenised, on any thread, and as in sha256_of_file().
  std::function<void()> on_work_done = [] {};

  [[nodiscard]] std::vector<std::filesystem::path> paths() const;
};

// A row for people to look at.
struct ShownRow {
  std::string place;
  std::vector<TextPart> parts;       // its whole text; of a row of text one part
  std::vector<Row> rows;             // what is trained on: cut, and of a long document several
  std::optional<size_t> read_bytes;  // of the text, where it is cut
};

struct Dataset {
  std::vector<Row> rows;  // in file order
  DataReport report;
  std::vector<data::RowKey> sources;  // the files' rows that they are of, each once
  std::vector<ProbeText> probe;       // of the first rows
  int32_t end_of_row = -1;            // the token that ends an answer, or a text
  std::vector<ShownRow> shown;        // the first that are taken
  std::string jinja;                  // the chat template in Jinja, see ChatTemplate::jinja()
  bool template_ends = false;         // a template wrote it; else it is the tokenizer's EOS
};

// Reads and tokenises a data set: of the rows of its files those that data::select_rows() chooses.
//   (Without Tokenizer::has_bos() there is no BOS; a long document's rows then begin with the last
//   token of the row before, which is read there and not predicted again.)
//   messages  the text of all parts that the chat template gives, tokenised as one and cut to
//             max_length. A template that writes_ends() says all; else there is the BOS before the text
//             and the EOS behind it. Targets are the parts to be learned, the end of an answer with
//             them (all but the first token with train_on_prompt). Where a part ends inside a token,
//             see parts_to_row() (text/tokenise.h). A row with no target left is skipped.
//   text      a document is [BOS] + SP(text) + [EOS]; a longer one is cut into rows of max_length of
//             which every further one starts with BOS again, as any text does at inference. No token
//             is lost and no row mixes documents (packing puts short ones side by side).
// INVALID_ARGUMENT with a violation for each bad row; INVALID_ARGUMENT when no row with a target is
// left, or for a template that does not fit the tokenizer; file errors as they come. A cache that does
// not verify is made anew, one that cannot be written is only logged.
[[nodiscard]] Result<Dataset> load_dataset(const DatasetOptions& options,
                                           const Tokenizer& tokenizer);

// The SHA-256 of data files of these digests: of one file its own.
[[nodiscard]] std::string data_digest(const std::vector<std::filesystem::path>& files,
                                      const std::vector<std::string>& digests);

}  // namespace emoe
