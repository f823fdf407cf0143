#include "cli/evaluation_table.h"

#include <optional>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/format.h"
#include "cli/table.h"
#include "config/schema.h"

namespace emoe::cli {
namespace {

std::string number(double value) {
  return human_number(value);
}
std::string percent(double value) {
  return absl::StrFormat("%.2f %%", 100 * value);
}

// One line for each number of an evaluation, with its name.
struct Line {
  std::string name;
  std::optional<double> value;
  std::string (*text)(double);
};

std::vector<Line> lines_of(const v1::EvalResult& eval) {
  std::vector<Line> lines;
  if (eval.target_tokens() > 0) {
    lines.push_back({"held-out loss", eval.loss(), number});
    lines.push_back({"  dense", eval.loss_dense(), number});
    lines.push_back({"  perplexity", eval.perplexity(), number});
  }
  const v1::SuiteScores& suite = eval.suite();
  lines.push_back({suite.suite(), suite.accuracy(), percent});
  lines.push_back({"  dense", suite.accuracy_dense(), percent});
  lines.push_back({"  mean of subjects", suite.accuracy_subject_mean(), percent});
  lines.push_back({"  dense", suite.accuracy_subject_mean_dense(), percent});
  for (const v1::SubjectScore& subject : suite.subjects()) {
    const bool known = subject.scored() > 0;
    lines.push_back({"  " + subject.name(),
                     known ? std::optional<double>(subject.accuracy()) : std::nullopt, percent});
  }
  return lines;
}

std::string cell(const Line& line) {
  return line.value ? line.text(*line.value) : "-";
}

std::string change_cell(const Line& before, const Line& after) {
  if (!before.value || !after.value) return "-";
  const double change = *after.value - *before.value;
  return absl::StrCat(change < 0 ? "" : "+", after.text(change));
}

std::string suite_text(const v1::SuiteScores& suite) {
  std::string text = absl::StrFormat("%s/%s, %d shots, %d questions", suite.suite(), suite.split(),
                                     suite.shots(), suite.scored());
  if (suite.unscored() > 0) absl::StrAppend(&text, ", ", suite.unscored(), " too long");
  return text;
}

}  // namespace

std::string evaluation_table(const v1::Job& job, int width) {
  if (!job.eval_last().has_suite()) return "";
  const std::vector<Line> after = lines_of(job.eval_last());
  const std::vector<Line> before = lines_of(job.eval_first());
  const bool compares = config::is_training(job.resolved_spec()) && job.eval_first().has_suite() &&
                        before.size() == after.size();
  std::vector<Table::Column> columns{{.title = suite_text(job.eval_last().suite())}};
  if (compares) columns.push_back({"BEFORE", true});
  columns.push_back({compares ? "AFTER" : "RESULT", true});
  if (compares) columns.push_back({"CHANGE", true});
  Table table(columns);
  for (size_t i = 0; i < after.size(); ++i) {
    std::vector<std::string> row{after[i].name};
    if (compares) row.push_back(cell(before[i]));
    row.push_back(cell(after[i]));
    if (compares) row.push_back(change_cell(before[i], after[i]));
    table.add(std::move(row));
  }
  return table.render(width);
}

}  // namespace emoe::cli
