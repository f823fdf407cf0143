#include "server/job/admission.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/file.h"
#include "config/config.h"
#include "config/data_check.h"
#include "config/validation.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestConfigJson = 4 << 20;

bool is_below(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

// The allowed roots, links resolved; one that cannot be resolved allows nothing.
class Roots {
 public:
  explicit Roots(const std::vector<fs::path>& roots) : given_(roots) {
    for (const fs::path& root : roots) {
      std::error_code error;
      const fs::path real = fs::canonical(root, error);
      if (!error) real_.push_back(real);
    }
  }
  [[nodiscard]] bool any_path() const { return given_.empty(); }
  [[nodiscard]] bool allow(const fs::path& path) const {
    if (any_path()) return true;
    std::error_code error;
    const fs::path real = fs::weakly_canonical(path, error);
    return !error && std::any_of(real_.begin(), real_.end(),
                                 [&](const fs::path& root) { return is_below(real, root); });
  }
  [[nodiscard]] std::string text() const {
    return absl::StrJoin(given_, ", ", [](std::string* out, const fs::path& root) {
      absl::StrAppend(out, root.string());
    });
  }

 private:
  const std::vector<fs::path>& given_;
  std::vector<fs::path> real_;
};

// Checks the paths of a spec, one after the other.
class PathCheck {
 public:
  PathCheck(const AdmissionConfig& config, Diagnostics& diagnostics)
      : roots_(config.allowed_roots), diagnostics_(diagnostics) {}

  // What the spec is to say instead of `path`.
  std::string operator()(const std::string& key, const fs::path& path) {
    const std::string reason = fault_of(key, path);
    if (reason.empty()) {
      usable_.insert(key);
    } else {
      diagnostics_.add(key, reason);
    }
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    return roots_.any_path() || error ? path.string() : real.string();
  }
  [[nodiscard]] bool usable(const std::string& key) const { return usable_.contains(key); }

 private:
  // Empty for a path that can be used.
  [[nodiscard]] std::string fault_of(const std::string& key, const fs::path& path) const {
    if (!path.is_absolute()) {
      return absl::StrCat("'", path.string(),
                          "' must be an absolute path on the coordinator's file system");
    }
    if (!roots_.allow(path)) return outside(path);
    if (::access(path.c_str(), R_OK) != 0) {
      return absl::StrCat("cannot read '", path.string(), "': ", std::strerror(errno));
    }
    std::error_code error;
    if (fs::is_directory(path, error)) return fault_in_folder(path);
    // The files beside a tokenizer.model go into the exported folder.
    return key == "model.init.tokenizer" ? fault_in_folder(path.parent_path()) : "";
  }

  // Links in a folder may lead out of the roots as well; files of other kinds are never read.
  [[nodiscard]] std::string fault_in_folder(const fs::path& folder) const {
    if (roots_.any_path()) return "";
    static const std::set<std::string> kRead{".json", ".safetensors", ".model", ".jinja"};
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      const fs::path& file = entry.path();
      if (kRead.contains(file.extension().string()) && !roots_.allow(file)) return outside(file);
    }
    return error ? absl::StrCat("cannot read '", folder.string(), "': ", error.message()) : "";
  }

  [[nodiscard]] std::string outside(const fs::path& path) const {
    return absl::StrCat("'", path.string(), "' lies outside the allowed folders: ", roots_.text());
  }

  const Roots roots_;
  Diagnostics& diagnostics_;
  std::set<std::string> usable_;
};

// The three numbers of config.json that the spec's rules need. Whether the model as a whole can be
// read, the worker decides.
void check_model(const fs::path& folder, const v1::JobSpec& resolved, Diagnostics& diagnostics) {
  const fs::path file = folder / "config.json";
  const auto text = read_file(file, kLargestConfigJson);
  if (!text.ok()) {
    diagnostics.add("model.path",
                    absl::StrCat("is no model folder: ", std::string(text.status().message())));
    return;
  }
  const auto json = nlohmann::json::parse(
      *text, [](int depth, auto, const auto&) { return depth <= 1; }, false);
  if (!json.is_object()) {
    diagnostics.add("model.path", file.string() + " is no JSON object");
    return;
  }
  config::ModelShape shape;
  bool complete = true;
  const auto take = [&](const char* key, int64_t& value) {
    const auto found = json.find(key);
    const uint64_t number =
        found != json.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
    if (number >= 1 && number <= std::numeric_limits<int32_t>::max()) {
      value = static_cast<int64_t>(number);
      return;
    }
    complete = false;
    diagnostics.add("model.path", absl::StrCat(file.string(), ": \"", key,
                                               "\" must be a positive integer of 32 bits"));
  };
  take("num_hidden_layers", shape.num_hidden_layers);
  take("intermediate_size", shape.intermediate_size);
  take("max_position_embeddings", shape.max_position_embeddings);
  if (complete) config::validate_against_model(resolved, shape, {}, diagnostics);
}

// The number of its rows; nothing if something is wrong with the file.
std::optional<int64_t> check_data_file(const config::DataFile& file, Diagnostics& diagnostics) {
  const size_t before = diagnostics.size();
  const auto rows = config::read_data_rows(file, diagnostics, nullptr);
  if (!rows.ok()) diagnostics.add(file.key, std::string(rows.status().message()));
  return diagnostics.size() == before ? std::optional(*rows) : std::nullopt;
}

// A row of Alpaca data gives at most one row to train on. (How many a text gives, the tokenizer
// says.)
void check_batch(const v1::JobSpec& spec, int64_t rows, Diagnostics& diagnostics) {
  const double usable = std::ceil(spec.data().fraction() * static_cast<double>(rows));
  const int32_t batch = spec.train().global_batch();
  if (spec.data().format() != "alpaca" || !spec.train().drop_last() || !(usable < batch)) return;
  config::KeyReporter({}, diagnostics)(
      "train.global_batch", absl::StrCat("is ", batch, ", but data.train has only ", usable,
                                         " usable rows: with train.drop_last no step is left"));
}

void check_data(const v1::JobSpec& spec, const PathCheck& paths, Diagnostics& diagnostics) {
  const v1::Data& data = spec.data();
  if (!config::can_read_format(data.format())) return;  // reported as a value of data.format
  if (paths.usable("data.train")) {
    const auto rows = check_data_file({data.train(), data.format(), "data.train"}, diagnostics);
    if (rows) check_batch(spec, *rows, diagnostics);
  }
  if (paths.usable("data.eval") && data.eval() != data.train()) {
    (void)check_data_file({data.eval(), data.format(), "data.eval"}, diagnostics);
  }
}

}  // namespace

v1::JobSpec admit(const v1::JobSpec& spec, const AdmissionConfig& config,
                  Diagnostics& diagnostics) {
  v1::JobSpec resolved = config::resolve(spec);
  config::validate(resolved, {}, diagnostics);
  config::reject_unsupported(resolved, {}, diagnostics);
  PathCheck paths(config, diagnostics);
  config::change_paths(resolved, std::ref(paths));
  if (paths.usable("model.path") && !resolved.model().has_init()) {
    check_model(resolved.model().path(), resolved, diagnostics);
  }
  check_data(resolved, paths, diagnostics);
  return resolved;
}

}  // namespace emoe::server
