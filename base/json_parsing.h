#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace emoe {

// Finds a key that stands twice in one object of a JSON text: a parser keeps one of the two values,
// and nobody would know which. To be called for every event of nlohmann's parser with its depth.
class DuplicateKeys {
 public:
  void see(int depth, nlohmann::json::parse_event_t event, const nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    const auto level = static_cast<size_t>(depth);
    if (event == Event::object_start) {  // its keys come one level deeper
      if (open_.size() < level + 2) open_.resize(level + 2);
      open_[level + 1].clear();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_[level].insert(key).second && !found_) {
        found_ = true;
        first_ = key;
      }
    }
  }
  [[nodiscard]] bool found() const { return found_; }
  [[nodiscard]] const std::string& first() const { return first_; }

 private:
  // By depth: the keys of the objects around the current place. (The ends of objects that the
  // caller drops are no events.)
  std::vector<std::set<std::string>> open_;
  bool found_ = false;
  std::string first_;
};

// Whether an error of nlohmann's parser says that the text ends before its value does.
[[nodiscard]] bool is_cut_off(const nlohmann::json::exception& error);

// Why `text` is no JSON, as a clause: "it has a comment, which JSON has not". For what people
// write most often in words of our own, else in the parser's.
[[nodiscard]] std::string json_fault(const nlohmann::json::exception& error, std::string_view text);
// The line of `text` (1-based) in which that is; 0 where the parser does not say.
[[nodiscard]] int64_t json_fault_line(const nlohmann::json::exception& error,
                                      std::string_view text);

}  // namespace emoe
