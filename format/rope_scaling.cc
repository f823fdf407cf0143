#include "format/rope_scaling.h"

#include <map>
#include <optional>
#include <set>
#include <string>

#include <absl/strings/str_cat.h>

namespace emoe {
namespace {

using nlohmann::json;

constexpr char kOriginalPositions[] = "original_max_position_embeddings";

// What each type reads besides its name and rope_theta.
const std::map<std::string, std::set<std::string>>& keys_of_types() {
  static const auto* keys = new std::map<std::string, std::set<std::string>>{
      {"default", {}},
      {"linear", {"factor"}},
      {"llama3", {"factor", "low_freq_factor", "high_freq_factor", kOriginalPositions}}};
  return *keys;
}

std::string why_not(const std::string& type) {
  static const auto* reasons = new std::map<std::string, std::string>{
      {"dynamic",
       "its frequencies change with the length of each text, so that a token's numbers depend on "
       "what comes after it"},
      {"yarn", "it scales the attention's scores too, which this engine does not compute"},
      {"longrope", "it has factors for every frequency and changes them with the text's length"},
      {"su", "an old name of longrope, whose factors change with the text's length"},
      {"mrope", "its positions are those of images"}};
  const auto found = reasons->find(type);
  return found == reasons->end() ? "this program does not know it" : found->second;
}

// The name under either of its keys; nothing, and a problem, where it cannot be told.
std::optional<std::string> type_of(ConfigReader& rope) {
  std::optional<std::string> type;
  for (const char* key : {"rope_type", "type"}) {
    if (!rope.has(key)) continue;
    const json& value = rope.object()[key];
    if (!value.is_string() || (type && *type != value.get<std::string>())) {
      rope.fail(key, absl::StrCat("is ", value.dump(),
                                  value.is_string() ? ", rope_type is another" : ", must be text"));
      return std::nullopt;
    }
    type = value.get<std::string>();
  }
  return type.value_or("default");
}

RopeScaling::Type known_type(const std::string& type) {
  if (type == "llama3") return RopeScaling::Type::llama3;
  return type == "linear" ? RopeScaling::Type::linear : RopeScaling::Type::none;
}

// Positions that are divided by 1, and a factor that says nothing.
bool is_one(const std::string& key, const json& value) {
  return (key == "factor" || key == "partial_rotary_factor") && value == 1.0;
}

void check_rope_keys(const std::string& type, ConfigReader& rope) {
  for (const auto& [key, value] : rope.object().items()) {
    if (key == "rope_type" || key == "type" || key == "rope_theta") continue;
    if (keys_of_types().at(type).contains(key) || value.is_null() || is_one(key, value)) continue;
    rope.fail(key, absl::StrCat("is ", value.dump().substr(0, 60),
                                ", which rotary positions of type \"", type, "\" do not read"));
  }
}

RopeScaling read_scaling(ConfigReader& rope, int64_t positions) {
  RopeScaling scaling;
  const std::optional<std::string> type = type_of(rope);
  if (!type) return scaling;
  if (!keys_of_types().contains(*type)) {
    rope.fail("rope_type", absl::StrCat("is \"", *type, "\": ", why_not(*type),
                                        "; computed are default, linear and llama3"));
    return scaling;
  }
  check_rope_keys(*type, rope);
  if (*type == "default") return scaling;
  scaling.factor = rope.positive("factor", 0.0);
  if (*type == "linear" && scaling.factor == 1.0) return scaling;
  scaling.type = known_type(*type);
  if (scaling.type != RopeScaling::Type::llama3) return scaling;
  scaling.low_freq_factor = rope.positive("low_freq_factor", 0.0);
  scaling.high_freq_factor = rope.positive("high_freq_factor", 0.0);
  scaling.original_positions = rope.count(kOriginalPositions, 1, positions);
  if (scaling.low_freq_factor >= scaling.high_freq_factor && scaling.high_freq_factor > 0.0) {
    rope.fail("high_freq_factor",
              absl::StrCat("is ", scaling.high_freq_factor, ", must be above low_freq_factor ",
                           scaling.low_freq_factor));
  }
  return scaling;
}

// One of the two objects; `theta` is what rope_theta says beside it.
Rope read_object(const char* key, double theta, int64_t positions, ConfigReader& reader) {
  Rope rope{.theta = theta, .scaling = {}};
  if (!reader.object()[key].is_object()) {
    reader.fail(
        key, absl::StrCat("is ", reader.object()[key].dump().substr(0, 60), ", must be an object"));
    return rope;
  }
  ConfigReader inside = reader.inside(key);
  rope.scaling = read_scaling(inside, positions);
  rope.theta = inside.positive("rope_theta", theta);
  if (reader.has("rope_theta") && rope.theta != theta) {
    reader.fail("rope_theta", absl::StrCat("differs from ", key, ".rope_theta"));
  }
  return rope;
}

}  // namespace

Rope read_rope(ConfigReader& reader, int64_t positions) {
  const double theta = reader.positive("rope_theta", 10000.0);
  const int64_t original = reader.count(kOriginalPositions, 1, positions);
  std::optional<Rope> rope;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!reader.has(key)) continue;
    const Rope found = read_object(key, theta, original, reader);
    if (rope && *rope != found) {
      reader.fail(key, "differs from rope_scaling, the same thing in the words of transformers 4");
    }
    rope = found;
  }
  if (!rope) return {.theta = theta, .scaling = {}};
  const RopeScaling& scaling = rope->scaling;
  if (reader.has(kOriginalPositions) && scaling.type == RopeScaling::Type::llama3 &&
      scaling.original_positions != original) {
    reader.fail(kOriginalPositions,
                absl::StrCat("is ", original, ", and ", scaling.original_positions,
                             " among the rotary positions' keys"));
  }
  return *rope;
}

}  // namespace emoe
