#include "data/choice_suite.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/utf8.h"
#include "data/csv_reader.h"

namespace emoe::data {
namespace {

namespace fs = std::filesystem;

constexpr char kShots[] = "dev";

// The names below a folder, sorted; empty where it cannot be read.
std::vector<std::string> entries_of(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    names.insert(entry->path().filename().string());
  }
  return {names.begin(), names.end()};
}

// "anatomy" of anatomy_val.csv or anatomy.csv in a folder val; empty for any other file.
std::string subject_of(const std::string& file, const std::string& part) {
  if (!file.ends_with(".csv") || file.starts_with('.')) return "";
  std::string name = file.substr(0, file.size() - 4);
  const std::string suffix = absl::StrCat("_", part);
  if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  return name;
}

// The files of one folder of a suite.
class Part {
 public:
  Part(const SuiteOptions& options, const std::string& name)
      : folder_(options.folder / name), name_(name) {
    for (const std::string& file : entries_of(folder_)) {
      const std::string subject = subject_of(file, name);
      if (subject.empty()) continue;
      if (const fs::path first = file_of(subject); !first.empty()) {
        twice_.push_back(absl::StrCat("the subject ", subject, " has two files, ", first.string(),
                                      " and ", file, ": remove one"));
      }
      files_.emplace_back(subject, folder_ / file);
    }
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const fs::path& folder() const { return folder_; }
  [[nodiscard]] bool empty() const { return files_.empty(); }
  // Subjects of which it cannot be said which file counts, a sentence each.
  [[nodiscard]] const std::vector<std::string>& twice() const { return twice_; }
  [[nodiscard]] std::vector<std::string> subjects() const {
    std::set<std::string> names;
    for (const auto& [subject, file] : files_) names.insert(subject);
    return {names.begin(), names.end()};
  }
  // Empty where there is none.
  [[nodiscard]] fs::path file_of(const std::string& subject) const {
    const auto found = std::ranges::find(files_, subject, [](const auto& f) { return f.first; });
    return found == files_.end() ? fs::path() : found->second;
  }

 private:
  fs::path folder_;
  std::string name_;
  std::vector<std::pair<std::string, fs::path>> files_;
  std::vector<std::string> twice_;
};

// Reads the lines of one file.
class QuestionReader {
 public:
  QuestionReader(const fs::path& file, const std::string& key, Diagnostics& diagnostics)
      : file_(file), key_(key), diagnostics_(diagnostics) {}

  // All of them are checked, the first `most` are returned.
  std::vector<ChoiceQuestion> read(int64_t most) {
    std::vector<ChoiceQuestion> questions;
    auto pieces = PieceReader::open(file_, LineEnds::as_written);
    if (!pieces.ok()) {
      diagnostics_.add(key_, std::string(pieces.status().message()));
      return questions;
    }
    if (const std::string stand_in = pieces->stand_in(); !stand_in.empty()) {
      diagnostics_.add(file_.string(), key_, stand_in);
      return questions;
    }
    CsvRecord record;
    for (int64_t row = 0; read_csv_record(*pieces, record); ++row) {
      const std::string fault = fault_of(record);
      if (!fault.empty()) {
        diagnostics_.add(absl::StrCat(file_.string(), ":", record.line), key_, fault);
      } else if (row < most) {
        questions.push_back(question_of(std::move(record), row));
      }
    }
    if (!pieces->status().ok()) {
      diagnostics_.add(key_, std::string(pieces->status().message()));
    }
    return questions;
  }

 private:
  static std::string fault_of(const CsvRecord& record) {
    if (!record.fault.empty()) return record.fault;
    constexpr size_t kFields = 6;
    const std::vector<std::string>& fields = record.fields;
    if (fields.size() != kFields) {
      return absl::StrCat("has ", fields.size(), " field", fields.size() == 1 ? "" : "s",
                          ", not 6: question, four choices, the letter of the right one");
    }
    if (!std::ranges::all_of(fields, [](const std::string& f) { return is_utf8(f); })) {
      return "is not UTF-8 text";
    }
    const std::string& answer = fields[5];
    if (answer.size() != 1 || kChoiceLetters.find(answer[0]) == std::string_view::npos) {
      return absl::StrCat("the last field is \"", shorten_utf8(answer, 40),
                          "\", not the letter of the right choice: A, B, C or D");
    }
    return "";
  }

  static ChoiceQuestion question_of(CsvRecord record, int64_t row) {
    ChoiceQuestion question{.question = std::move(record.fields[0]), .choices = {}, .row = row};
    for (size_t i = 0; i < 4; ++i) question.choices[i] = std::move(record.fields[i + 1]);
    question.answer = static_cast<int>(kChoiceLetters.find(record.fields[5][0]));
    return question;
  }

  const fs::path& file_;
  const std::string& key_;
  Diagnostics& diagnostics_;
};

// The folders that hold CSV files: "dev, test and val".
std::string parts_text(const fs::path& folder) {
  std::vector<std::string> parts;
  for (const std::string& name : entries_of(folder)) {
    std::error_code ignored;
    if (fs::is_directory(folder / name, ignored)) parts.push_back(name + "/");
  }
  return parts.empty() ? "no folder" : absl::StrJoin(parts, ", ");
}

class SuiteReader {
 public:
  explicit SuiteReader(const SuiteOptions& options)
      : options_(options), split_(options, options.split), shots_(options, kShots) {}

  // What is missing or there twice, a sentence each.
  [[nodiscard]] std::vector<std::string> missing() const {
    std::vector<std::string> found;
    for (const Part* part : parts()) {
      found.insert(found.end(), part->twice().begin(), part->twice().end());
      if (!part->empty()) continue;
      found.push_back(absl::StrCat("there are no CSV files in ", part->folder().string(),
                                   ": a suite has dev/ for the shots and a folder for ",
                                   "evaluate.split, ", options_.split, "; ",
                                   options_.folder.string(), " has ", parts_text(options_.folder)));
    }
    if (!found.empty()) return found;
    for (const std::string& subject : subjects()) {
      for (const Part* part : parts()) {
        if (!part->file_of(subject).empty()) continue;
        found.push_back(absl::StrCat("the subject ", subject, " is missing: there is no ",
                                     (part->folder() / subject).string(), "_", part->name(),
                                     ".csv"));
      }
    }
    return found;
  }

  [[nodiscard]] std::vector<std::string> subjects() const {
    return options_.subjects.empty() ? split_.subjects() : options_.subjects;
  }
  // Those that are read, that of the questions last.
  [[nodiscard]] std::vector<const Part*> parts() const {
    if (options_.shots == 0) return {&split_};
    return {&shots_, &split_};
  }

  [[nodiscard]] ChoiceSubject read(const std::string& name, Diagnostics& diagnostics) const {
    constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
    ChoiceSubject subject{.name = name, .shots = {}, .questions = {}};
    const auto read = [&](const Part& part, int64_t most) {
      const fs::path file = part.file_of(name);
      const size_t before = diagnostics.size();
      auto questions = QuestionReader(file, options_.key, diagnostics).read(most);
      if (questions.empty() && diagnostics.size() == before) {
        diagnostics.add(file.string(), options_.key, "has no question");
      }
      return questions;
    };
    if (options_.shots > 0) subject.shots = read(shots_, options_.shots);
    subject.questions = read(split_, options_.limit > 0 ? options_.limit : kAll);
    return subject;
  }

 private:
  const SuiteOptions& options_;
  Part split_;
  Part shots_;
};

}  // namespace

std::vector<ChoiceSubject> read_suite(const SuiteOptions& options, Diagnostics& diagnostics,
                                      const std::function<void()>& on_work_done) {
  const SuiteReader reader(options);
  const std::vector<std::string> missing = reader.missing();
  for (const std::string& text : missing) diagnostics.add(options.key, text);
  std::vector<ChoiceSubject> subjects;
  if (!missing.empty()) return subjects;
  for (const std::string& name : reader.subjects()) {
    subjects.push_back(reader.read(name, diagnostics));
    on_work_done();
  }
  return subjects;
}

Result<std::vector<fs::path>> suite_files(const SuiteOptions& options) {
  const SuiteReader reader(options);
  const std::vector<std::string> missing = reader.missing();
  if (!missing.empty()) {
    return absl::NotFoundError(absl::StrCat(options.key, ": ", missing.front()));
  }
  std::vector<fs::path> files;
  for (const std::string& name : reader.subjects()) {
    for (const auto* part : reader.parts()) files.push_back(part->file_of(name));
  }
  return files;
}

}  // namespace emoe::data
