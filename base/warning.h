#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emoe {

// Something the user should know about a job that goes on all the same. Told again, by another
// attempt or another program, it is the same warning where code and `where` are equal.
struct Warning {
  std::string code;   // one of warning::k…
  std::string text;   // one line, the count first: "12 of 15 rows …"
  std::string where;  // to look: a key of the job (and what of it), a file, a tensor
  int64_t count = 1;  // of what the text tells of
  std::string first;  // the first example: "train.jsonl:4"; or empty
};

// The codes. docs/ERRORS.md says what each means; `make lint` compares.
namespace warning {
inline constexpr char kUnreadKey[] = "UNREAD_KEY";
inline constexpr char kRowsCut[] = "ROWS_CUT";
inline constexpr char kRowsDropped[] = "ROWS_DROPPED";
inline constexpr char kEmptyTarget[] = "EMPTY_TARGET";
inline constexpr char kDefaultDiffers[] = "DEFAULT_DIFFERS";
inline constexpr char kBaseRounded[] = "BASE_ROUNDED";
inline constexpr char kWarmupOnly[] = "WARMUP_ONLY";
inline constexpr char kEvalInTrain[] = "EVAL_IN_TRAIN";
inline constexpr char kTokenAsText[] = "TOKEN_AS_TEXT";
inline constexpr char kDeltaZero[] = "DELTA_ZERO";
inline constexpr char kDeltaLost[] = "DELTA_LOST";
inline constexpr char kIndexSize[] = "INDEX_SIZE";
inline constexpr char kTensorsSkipped[] = "TENSORS_SKIPPED";
inline constexpr char kGpuUnused[] = "GPU_UNUSED";
inline constexpr char kCheckpointFailed[] = "CHECKPOINT_FAILED";
}  // namespace warning

// False for what data.strict lets pass: a consequence of a key that the job gives, and what happens to
// a run without a fault of its job.
[[nodiscard]] bool is_error_when_strict(const Warning& warning);

// For people: "12 of 15 rows …; see data.train: "system", first train.jsonl:4".
[[nodiscard]] std::string to_string(const Warning& warning);

// Puts `warning` behind the others, or in the place of the same one told earlier.
void merge_warning(std::vector<Warning>& warnings, Warning warning);

// As in warnings.json. Templates, so that nlohmann's headers stay out of this one; its json types
// find them.
template <typename Json>
void to_json(Json& json, const Warning& warning) {
  json = Json{{"code", warning.code},
              {"text", warning.text},
              {"where", warning.where},
              {"count", warning.count},
              {"first", warning.first}};
}
template <typename Json>
void from_json(const Json& json, Warning& warning) {
  json.at("code").get_to(warning.code);
  json.at("text").get_to(warning.text);
  json.at("where").get_to(warning.where);
  json.at("count").get_to(warning.count);
  json.at("first").get_to(warning.first);
}

}  // namespace emoe
