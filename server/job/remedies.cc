#include "server/job/remedies.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "config/config.h"
#include "server/job/planned_run.h"
#include "server/job/work_estimate.h"

namespace emoe::server {
namespace {

// A job as it was given, with changes.
struct Variant {
  v1::JobSpec spec;
  std::string said = {};  // "--set parallel.ranks=2 --set parallel.tensor=2"

  [[nodiscard]] Variant with_ranks(int ranks) const {
    Variant changed = said_too("parallel.ranks", absl::StrCat(ranks));
    changed.spec.mutable_parallel()->set_ranks(ranks);
    return changed;
  }
  [[nodiscard]] Variant with_tensor(int tensor) const {
    Variant changed = said_too("parallel.tensor", absl::StrCat(tensor));
    changed.spec.mutable_parallel()->set_tensor(tensor);
    return changed;
  }
  [[nodiscard]] Variant sharded() const {
    Variant changed = said_too("parallel.shard_base", "true");
    changed.spec.mutable_parallel()->set_shard_base(true);
    return changed;
  }
  [[nodiscard]] Variant with_micro_batches(int64_t tokens) const {
    Variant changed = said_too("train.micro_batch_tokens", absl::StrCat(tokens));
    changed.spec.mutable_train()->set_micro_batch_tokens(static_cast<int32_t>(tokens));
    return changed;
  }
  [[nodiscard]] Variant with_length(int32_t length) const {
    Variant changed = said_too("data.max_length", absl::StrCat(length));
    changed.spec.mutable_data()->set_max_length(length);
    return changed;
  }
  [[nodiscard]] Variant recomputed() const {
    Variant changed = said_too("train.recompute", "true");
    changed.spec.mutable_train()->set_recompute(true);
    return changed;
  }
  [[nodiscard]] Variant halved() const {
    Variant changed = said_too("model.dtype", "bfloat16");
    changed.spec.mutable_model()->set_dtype("bfloat16");
    return changed;
  }
  [[nodiscard]] Variant with_lora() const {
    Variant changed = said_too("tuning", "lora");
    changed.spec.set_tuning("lora");
    return changed;
  }

 private:
  [[nodiscard]] Variant said_too(const std::string& key, const std::string& value) const {
    return {spec, absl::StrCat(said, said.empty() ? "" : " ", "--set ", key, "=", value)};
  }
};

class Remedies {
 public:
  Remedies(const PlanInputs& inputs, const Capacity& capacity, v1::MemoryPlan& into)
      : inputs_(inputs),
        capacity_(capacity),
        into_(into),
        shared_((into.place() == "host" || into.host_too_small()) && capacity.one_host),
        slots_(into.place() == "host" ? capacity.slots : capacity.gpu_slots) {}

  void find() {
    const Variant as_is{inputs_.given};
    const v1::JobSpec& spec = inputs_.spec;
    const bool float32 = spec.model().dtype() == "float32";
    const bool full = spec.task() == "train" && spec.tuning() == "full";
    const auto work = estimate_work(spec, inputs_.facts);
    longest_row_ = work ? work->longest_row : 0;
    (void)offer_smaller_passes(as_is, spec);
    tried_.push_back("smaller micro-batches");
    if (spec.task() == "train" && !spec.train().recompute()) {
      tried_.push_back("train.recompute");
      (void)offer_either(as_is.recomputed());
    }
    (void)offer_layouts(as_is);
    note_layouts();
    if (float32) offer_with_layouts(as_is.halved(), "model.dtype=bfloat16");
    if (full) offer_with_layouts(as_is.with_lora(), "tuning=lora");
    if (full && float32 && into_.fits_with().empty()) {
      offer_with_layouts(as_is.halved().with_lora(), "both");
    }
    offer_shorter_rows(as_is);
    if (!into_.fits_with().empty()) return;
    into_.set_no_remedy(absl::StrCat("it fits with none of what was tried, alone or together: ",
                                     absl::StrJoin(tried_, ", "), slots_text()));
  }

 private:
  static constexpr int kMostTimes = 8;  // as many ranks
  static constexpr int32_t kShortest = 64;

  // As admission would take it; nothing where it would not, or where there are too few slots.
  [[nodiscard]] std::optional<v1::JobSpec> let_in(const Variant& changed) const {
    Diagnostics diagnostics;
    v1::JobSpec resolved = config::check(changed.spec, {}, inputs_.shape, diagnostics);
    if (resolved.data().strict()) diagnostics.forbid_warnings();
    if (!diagnostics.empty() || cuts_rows_of_strict(resolved)) return std::nullopt;
    if (slots_ > 0 && resolved.parallel().ranks() > slots_) return std::nullopt;
    return resolved;
  }
  // Rows that are cut are a warning.
  [[nodiscard]] bool cuts_rows_of_strict(const v1::JobSpec& resolved) const {
    if (!resolved.data().strict()) return false;
    const auto cuts = [&](const std::optional<DataCheck>& check) {
      return check && check->longest > resolved.data().max_length();
    };
    return cuts(inputs_.facts.train) || cuts(inputs_.facts.eval);
  }

  // Adds it where it fits.
  bool offer(const Variant& changed) {
    const auto resolved = let_in(changed);
    if (!resolved || is_hopeless(*resolved)) return false;
    const PlannedRun planned(*resolved, inputs_, capacity_);
    if (!planned.possible() || planned.work()->upper_bound != upper_bound_ || !planned.fits()) {
      return false;
    }
    v1::PlanChange& change = *into_.add_fits_with();
    change.set_change(changed.said);
    change.set_rank_bytes(planned.memory().total());
    return true;
  }
  // Even with a single row at a time, which is known without dealing out all rows.
  [[nodiscard]] bool is_hopeless(const v1::JobSpec& resolved) const {
    WorkEstimate least;
    const int64_t tokens = std::min<int64_t>(longest_row_, resolved.data().max_length());
    least.micro_batches.push_back({std::max<int64_t>(tokens, 1), 1});
    return !PlannedRun(resolved, inputs_, capacity_, least).fits();
  }
  bool offer_smaller_passes(const Variant& base, const v1::JobSpec& resolved) {
    if (is_hopeless(resolved)) return false;
    const PlannedRun planned(resolved, inputs_, capacity_);
    if (!planned.possible() || !planned.could_fit()) return false;
    const int64_t now = resolved.train().micro_batch_tokens();
    for (const int64_t tokens : {planned.fitting_tokens(), planned.work()->longest_row}) {
      const bool smaller = tokens > 0 && (tokens < now || now == 0);
      if (smaller && offer(base.with_micro_batches(tokens))) return true;
    }
    return false;
  }
  // As it is, or with smaller micro-batches.
  bool offer_either(const Variant& changed) {
    if (offer(changed)) return true;
    const auto resolved = let_in(changed);
    return resolved && offer_smaller_passes(changed, *resolved);
  }
  void offer_with_layouts(const Variant& changed, const std::string& name) {
    if (!let_in(changed)) return;
    tried_.push_back(name);
    if (!offer_either(changed)) (void)offer_layouts(changed);
  }

  // Fewer ranks on a host that they share; more where each has memory of its own.
  [[nodiscard]] std::vector<int> rank_counts() const {
    const int now = std::max(inputs_.spec.parallel().ranks(), 1);
    std::vector<int> counts{now};
    if (shared_) {
      while (counts.back() > 1) counts.push_back(counts.back() / 2);
      return counts;
    }
    const int most = slots_ > 0 ? std::min(slots_, kMostTimes * now) : kMostTimes * now;
    while (2 * counts.back() <= most) counts.push_back(2 * counts.back());
    if (counts.back() < most) counts.push_back(most);
    return counts;
  }
  // Of one rank there is nothing to share.
  void note_layouts() {
    const std::vector<int> counts = rank_counts();
    const int most = std::max(counts.front(), counts.back());
    if (most == 1) return;
    const std::string ranks =
        counts.size() == 1
            ? absl::StrCat("parallel.ranks=", most)
            : absl::StrCat("parallel.ranks ", shared_ ? "down" : "up", " to ", counts.back());
    tried_.push_back(ranks + " with parallel.shard_base and parallel.tensor");
  }
  [[nodiscard]] std::string slots_text() const {
    if (shared_ || slots_ == 0 || rank_counts().back() < slots_) return "";
    return slots_ == 1 ? "; there is 1 slot" : absl::StrCat("; there are ", slots_, " slots");
  }

  // With the fewest changes of how ranks share the work, at the nearest count of ranks that does.
  bool offer_layouts(const Variant& base) {
    const int now = std::max(inputs_.spec.parallel().ranks(), 1);
    for (const int ranks : rank_counts()) {
      const bool same = ranks == now;
      if (offer_shares(same ? base : base.with_ranks(ranks), ranks, same)) return true;
    }
    return false;
  }
  bool offer_shares(const Variant& base, int ranks, bool same) {
    const int tensor = std::max(inputs_.spec.parallel().tensor(), 1);
    const bool divides = ranks % tensor == 0;
    if (!same && divides && offer_either(base)) return true;
    std::vector<Variant> by_tensor;
    for (int part = divides ? 2 * tensor : 1; part <= ranks; part *= 2) {
      if (ranks % part == 0) by_tensor.push_back(base.with_tensor(part));
    }
    const bool shards = inputs_.spec.parallel().shard_base();
    bool found = !shards && divides && ranks > tensor && offer_either(base.sharded());
    for (const Variant& variant : by_tensor) {
      if (!offer_either(variant)) continue;
      found = true;
      break;
    }
    if (found || shards) return found;
    return std::ranges::any_of(by_tensor, [&](const Variant& variant) {
      return variant.spec.parallel().tensor() < ranks && offer_either(variant.sharded());
    });
  }

  // The rows that were tokenised are cut at another place: the limit is what counts.
  void offer_shorter_rows(const Variant& base) {
    if (inputs_.spec.data().max_length() <= kShortest) return;
    tried_.push_back(absl::StrCat("rows of ", kShortest, " tokens"));
    for (int32_t length = inputs_.spec.data().max_length() / 2; length >= kShortest; length /= 2) {
      const Variant shorter = base.with_length(length);
      if (offer(shorter) || offer(shorter.with_micro_batches(length))) return;
    }
  }

  const PlanInputs& inputs_;
  const Capacity& capacity_;
  v1::MemoryPlan& into_;
  const bool shared_;
  const int slots_;
  // Rows so short that nothing of them is left to learn would be another job.
  const bool upper_bound_ = inputs_.facts.train
                                ? inputs_.facts.train->sample.empty()
                                : inputs_.facts.eval && inputs_.facts.eval->sample.empty();
  int64_t longest_row_ = 0;
  std::vector<std::string> tried_;
};

}  // namespace

void find_remedies(const PlanInputs& inputs, const Capacity& capacity, v1::MemoryPlan& into) {
  Remedies(inputs, capacity, into).find();
}

}  // namespace emoe::server
