// A page of jobs: ids by indexes first, then the bodies of those alone.
#include <algorithm>
#include <cstdlib>

#include <absl/strings/str_cat.h>

#include "server/job/store_rows.h"

namespace emoe::server {
namespace {

// Up to so many jobs that a filter names are looked at one by one and sorted; where it names more,
// the index of the order is followed, and every so many jobs one matches.
constexpr int kFewMatches = 5000;

// How the jobs of a query are found.
struct Way {
  std::optional<std::string> label;  // the key of the label that names few jobs
  bool by_name = false;              // the name does
  bool by_id = false;                // the beginning of the id does
};

// What follows all ids with this beginning, which are ASCII.
std::string end_of(const std::string& prefix) {
  return prefix + '\x7f';
}

// Whether `select` has at most kFewMatches rows.
Result<bool> is_few(Database& database, const std::string& select,
                    const std::vector<std::string>& values) {
  Statement count(database, absl::StrCat("SELECT count(*) FROM (", select, " LIMIT ?)"));
  for (const std::string& value : values) count.bind(value);
  if (count.bind(kFewMatches + 1).next()) return count.integer(0) <= kFewMatches;
  return count.status();
}

Result<Way> way_of(Database& database, const JobQuery& query) {
  Way way;
  if (query.id_prefix) {
    const std::string& begin = *query.id_prefix;
    EMOE_ASSIGN_OR_RETURN(way.by_id, is_few(database, "SELECT 1 FROM jobs WHERE id>=? AND id<?",
                                            {begin, end_of(begin)}));
    if (way.by_id) return way;
  }
  for (const auto& [key, value] : query.labels) {
    EMOE_ASSIGN_OR_RETURN(
        const bool few,
        is_few(database, "SELECT 1 FROM labels WHERE key=? AND value=?", {key, value}));
    if (!few) continue;
    way.label = key;
    return way;
  }
  if (!query.name) return way;
  way.by_name = query.order == JobQuery::Order::name;
  if (way.by_name) return way;
  std::string named;
  for (int state = v1::VALIDATING; state <= v1::JobState_MAX; ++state) {
    absl::StrAppend(&named, named.empty() ? "" : " UNION ALL ",
                    "SELECT 1 FROM jobs WHERE state=", state, " AND name=?1");
  }
  EMOE_ASSIGN_OR_RETURN(way.by_name, is_few(database, named, {*query.name}));
  return way;
}

std::vector<v1::JobState> states_of(const JobQuery& query) {
  std::vector<v1::JobState> states = query.states;
  for (int state = v1::VALIDATING; query.states.empty() && state <= v1::JobState_MAX; ++state) {
    states.push_back(static_cast<v1::JobState>(state));
  }
  std::ranges::sort(states);
  states.erase(std::unique(states.begin(), states.end()), states.end());
  return states;
}

// The first jobs in one state; bind_state() binds in the same order.
std::string state_sql(const JobQuery& query, const Way& way) {
  const char* column = JobQuery::kOrderNames.at(static_cast<size_t>(query.order));
  const char* direction = query.descending ? " DESC" : " ASC";
  std::string sql = absl::StrCat("SELECT id, ", column, " AS place FROM ");
  if (way.label) {  // CROSS JOIN: SQLite keeps to this order
    sql +=
        "(SELECT job_id FROM labels WHERE labels.key=? AND labels.value=?) "
        "CROSS JOIN jobs ON jobs.id=job_id WHERE state=?";
  } else if (way.by_id) {  // with + SQLite does not take the indexes of states
    sql += "jobs WHERE +state=?";
  } else {
    // Left alone SQLite may follow the order through all jobs of the state.
    sql += query.name && way.by_name ? "jobs INDEXED BY jobs_by_state_and_name WHERE state=?"
                                     : "jobs WHERE state=?";
  }
  if (query.id_prefix) sql += way.by_id ? " AND id>=? AND id<?" : " AND +id>=? AND +id<?";
  // With + SQLite does not take the index of names.
  if (query.name) sql += way.by_name ? " AND name=?" : " AND +name=?";
  if (query.visible_project) sql += " AND project=?";
  if (query.project) sql += " AND project=?";
  for (size_t i = way.label ? 1 : 0; i < query.labels.size(); ++i) {
    sql += " AND EXISTS (SELECT 1 FROM labels WHERE labels.job_id=id AND key=? AND value=?)";
  }
  if (query.after) {
    absl::StrAppend(&sql, " AND (", column, ", id) ", query.descending ? "<" : ">", " (?, ?)");
  }
  absl::StrAppend(&sql, " ORDER BY ", column, direction, ", id", direction, " LIMIT ?");
  return sql;
}

void bind_state(Statement& select, const JobQuery& query, const Way& way, v1::JobState state) {
  if (way.label) select.bind(*way.label, query.labels.at(*way.label));
  select.bind(state);
  if (query.id_prefix) select.bind(*query.id_prefix, end_of(*query.id_prefix));
  for (const auto& value : {query.name, query.visible_project, query.project}) {
    if (value) select.bind(*value);
  }
  for (const auto& [key, value] : query.labels) {
    if (key != way.label) select.bind(key, value);
  }
  if (query.after) {
    if (query.order == JobQuery::Order::name) {
      select.bind(query.after->key);
    } else {
      select.bind(std::strtoll(query.after->key.c_str(), nullptr, 10));
    }
    select.bind(query.after->id);
  }
  select.bind(query.limit + 1);
}

std::string list_sql(const JobQuery& query, const Way& way, size_t states) {
  const char* direction = query.descending ? " DESC" : " ASC";
  const std::string order = absl::StrCat(" ORDER BY place", direction, ", picked", direction);
  std::string sql = "WITH page(picked, place) AS (";
  for (size_t i = 0; i < states; ++i) {
    absl::StrAppend(&sql, i == 0 ? "" : " UNION ALL ", "SELECT * FROM (", state_sql(query, way),
                    ")");
  }
  return absl::StrCat(sql, ") SELECT jobs.body, progress.body, place FROM (SELECT * FROM page",
                      order,
                      " LIMIT ?) CROSS JOIN jobs ON jobs.id=picked CROSS JOIN progress ON "
                      "progress.job_id=picked",
                      order);
}

}  // namespace

Result<JobPage> list_jobs(Database& database, const JobQuery& query) {
  EMOE_ASSIGN_OR_RETURN(const Way way, way_of(database, query));
  const std::vector<v1::JobState> states = states_of(query);
  Statement select(database, list_sql(query, way, states.size()));
  for (const v1::JobState state : states) bind_state(select, query, way, state);
  select.bind(query.limit + 1);
  JobPage page;
  std::string last_key;
  while (select.next()) {
    if (static_cast<int>(page.jobs.size()) == query.limit) {
      page.next = JobQuery::Cursor{last_key, page.jobs.back().id()};
      break;
    }
    EMOE_ASSIGN_OR_RETURN(v1::Job job, read_public_job(select));
    last_key = select.bytes(2);
    page.jobs.push_back(std::move(job));
  }
  EMOE_RETURN_IF_ERROR(select.status());
  return page;
}

}  // namespace emoe::server
