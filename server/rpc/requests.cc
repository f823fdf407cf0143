#include "server/rpc/requests.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/sha256.h"
#include "config/config.h"
#include "server/job/errors.h"
#include "server/job/job_state_machine.h"

namespace emoe::server {
namespace {

// Maps in a fixed order, so that equal requests hash alike.
std::string deterministic_bytes(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

std::set<std::string> paths_of(const v1::UpdateJobRequest& request) {
  return {request.update_mask().paths().begin(), request.update_mask().paths().end()};
}

// The new values obey the same rules as in a spec; what else a spec needs is no matter here.
void check_values(const v1::UpdateJobRequest& request, Diagnostics& problems) {
  Diagnostics all;
  (void)config::check(request.spec(), {}, std::nullopt, all);
  for (const Violation& violation : all.violations()) {
    for (const std::string& path : paths_of(request)) {
      if (violation.field == path || violation.field.starts_with(path + ".")) {
        problems.add("spec." + violation.field, violation.reason);
      }
    }
  }
}

constexpr size_t kLongestFilter = 4096;

// A problem of `filter`, which may go on behind it.
Status bad_filter(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(text,
                                                 " (use state=RUNNING|QUEUED, labels.KEY=VALUE, "
                                                 "name=VALUE, id=BEGINNING, project=VALUE, joined "
                                                 "by AND)"));
}

// Words and quoted words; the quotes are gone, a term like name="a b" stays one piece.
Result<std::vector<std::string>> split_terms(const std::string& filter) {
  std::vector<std::string> pieces;
  std::string piece;
  bool quoted = false;
  bool any = false;
  for (const char c : filter) {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (!quoted && absl::ascii_isspace(static_cast<unsigned char>(c))) {
      if (any) pieces.push_back(std::move(piece));
      piece.clear();
      any = false;
    } else {
      piece += c;
      any = true;
    }
  }
  if (quoted) return bad_filter("a quote is not closed");
  if (any) pieces.push_back(std::move(piece));
  return pieces;
}

Status add_states(const std::string& value, JobQuery& query) {
  if (!query.states.empty()) return bad_filter("state may be given once");
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(value, '|'))) {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    if (!v1::JobState_Parse(name, &state) || state == v1::JOB_STATE_UNSPECIFIED) {
      return bad_filter(absl::StrCat("there is no state \"", name, "\""));
    }
    query.states.push_back(state);
  }
  return ok_status();
}

Status add_term(const std::string& term, JobQuery& query) {
  const size_t equals = term.find('=');
  if (equals == std::string::npos) return bad_filter(absl::StrCat("\"", term, "\" has no ="));
  const std::string key = term.substr(0, equals);
  const std::string value = term.substr(equals + 1);
  if (key == "state") return add_states(value, query);
  for (const auto& [name, field] :
       {std::pair("id", &query.id_prefix), std::pair("name", &query.name),
        std::pair("project", &query.project)}) {
    if (key != name) continue;
    if (*field) return bad_filter(absl::StrCat(key, " may be given once"));
    *field = value;
    return ok_status();
  }
  const std::string prefix = "labels.";
  if (key.rfind(prefix, 0) == 0 && key.size() > prefix.size()) {
    if (!query.labels.emplace(key.substr(prefix.size()), value).second) {
      return bad_filter(absl::StrCat(key, " may be given once"));
    }
    return ok_status();
  }
  return bad_filter(absl::StrCat("unknown field \"", key, "\""));
}

// The terms of a filter, between which AND stands, one after the other.
Status for_each_term(const std::string& filter,
                     const std::function<Status(const std::string&)>& add) {
  if (filter.size() > kLongestFilter) {
    return absl::InvalidArgumentError(absl::StrCat("is longer than ", kLongestFilter, " bytes"));
  }
  EMOE_ASSIGN_OR_RETURN(const auto pieces, split_terms(filter));
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i % 2 == 0) {
      EMOE_RETURN_IF_ERROR(add(pieces[i]));
    } else if (pieces[i] != "AND") {
      return bad_filter(absl::StrCat("expected AND before \"", pieces[i], "\""));
    }
  }
  if (!pieces.empty() && pieces.size() % 2 == 0) return bad_filter("ends after AND");
  return ok_status();
}

Status parse_order(const std::string& order_by, JobQuery& query) {
  const std::vector<std::string> words = absl::StrSplit(order_by, ' ', absl::SkipEmpty());
  if (words.empty()) return ok_status();  // create_time desc
  const std::string direction = words.size() > 1 ? words[1] : "asc";
  if (words.size() > 2 || (direction != "asc" && direction != "desc")) {
    return absl::InvalidArgumentError("one field with optional asc or desc");
  }
  query.descending = direction == "desc";
  const auto& known = JobQuery::kOrderNames;
  const auto found = std::find(known.begin(), known.end(), words[0]);
  if (found == known.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", words[0], "\" is none of ", absl::StrJoin(known, ", ")));
  }
  query.order = static_cast<JobQuery::Order>(found - known.begin());
  return ok_status();
}

std::string fingerprint(const std::string& request) {
  return sha256_hex(request).substr(0, 12);
}

}  // namespace

Result<std::map<std::string, std::string>> parse_audit_filter(const std::string& filter) {
  static const std::set<std::string> kFields{"principal", "role", "project", "method",
                                             "job_id",    "code", "reason"};
  std::map<std::string, std::string> wanted;
  EMOE_RETURN_IF_ERROR(for_each_term(filter, [&](const std::string& term) -> Status {
    const size_t equals = term.find('=');
    const std::string key = term.substr(0, equals);
    if (equals == std::string::npos || !kFields.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", term, "\" is none of ",
                                                     absl::StrJoin(kFields, "=VALUE, "),
                                                     "=VALUE, joined by AND"));
    }
    if (wanted.emplace(key, term.substr(equals + 1)).second) return ok_status();
    return absl::InvalidArgumentError(key + " may be given once");
  }));
  return wanted;
}

Status bad_request(const Diagnostics& problems, const std::string& reason) {
  if (problems.empty()) return ok_status();
  static const std::map<std::string, std::string> kReasons{{"request_id", "INVALID_REQUEST_ID"},
                                                           {"page_size", "INVALID_PAGE_SIZE"},
                                                           {"page_token", "INVALID_PAGE_TOKEN"},
                                                           {"filter", "INVALID_FILTER"},
                                                           {"order_by", "INVALID_ORDER_BY"},
                                                           {"max_bytes", "INVALID_MAX_BYTES"},
                                                           {"step", "INVALID_STEP"}};
  const std::string& first = problems.violations().front().field;
  const bool by_field = reason.empty() || (first == "request_id" && problems.size() == 1);
  return with_reason(problems.to_status(), by_field ? kReasons.at(first) : reason);
}

RequestKey request_key(const std::string& method, const std::string& request_id,
                       const google::protobuf::Message& request, Diagnostics& problems) {
  if (request_id.size() > 128) problems.add("request_id", "is longer than 128 characters");
  if (request_id.empty()) return RequestKey{"", method, ""};  // nobody asks for it again
  const std::unique_ptr<google::protobuf::Message> body(request.New());
  body->CopyFrom(request);
  const auto* field = body->GetDescriptor()->FindFieldByName("request_id");
  if (field != nullptr) body->GetReflection()->ClearField(body.get(), field);
  return RequestKey{request_id, method, sha256_hex(deterministic_bytes(*body))};
}

JobUpdate parse_update(const v1::UpdateJobRequest& request, Diagnostics& problems) {
  JobUpdate update;
  if (request.update_mask().paths().empty()) problems.add("update_mask", "names no field");
  for (const std::string& path : paths_of(request)) {
    if (path == "resources.priority") {
      update.priority = request.spec().resources().priority();
    } else if (path == "name") {
      update.name = request.spec().name();
    } else if (path == "labels") {
      update.labels.emplace(request.spec().labels().begin(), request.spec().labels().end());
    } else {
      problems.add("update_mask",
                   absl::StrCat("\"", path,
                                "\" cannot be changed (resources.priority, labels and name can)"));
    }
  }
  check_values(request, problems);
  return update;
}

int parse_page_size(int requested, int fallback, int largest, Diagnostics& problems) {
  if (requested < 0) problems.add("page_size", "must not be negative");
  return requested == 0 ? fallback : std::min(requested, largest);
}

std::string list_fingerprint(const v1::ListJobsRequest& request) {
  return absl::StrCat("jobs\n", request.filter(), "\n", request.order_by());
}

std::string make_page_token(const std::string& request, const std::string& key,
                            const std::string& id) {
  return absl::StrCat(fingerprint(request), ".", absl::BytesToHexString(key), ".",
                      absl::BytesToHexString(id));
}

std::optional<JobQuery::Cursor> parse_page_token(const std::string& request,
                                                 const std::string& token, Diagnostics& problems) {
  if (token.empty()) return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(token, '.');
  const auto is_hex = [](const std::string& text) {
    return text.size() % 2 == 0 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
  };
  if (parts.size() != 3 || parts[0] != fingerprint(request) || !is_hex(parts[1]) ||
      !is_hex(parts[2])) {
    problems.add(
        "page_token",
        "is not from an answer to the same request (everything but page_size must stay the "
        "same between pages)");
    return std::nullopt;
  }
  return JobQuery::Cursor{absl::HexStringToBytes(parts[1]), absl::HexStringToBytes(parts[2])};
}

Result<JobQuery> parse_list_request(const v1::ListJobsRequest& request) {
  JobQuery query;
  Diagnostics problems;
  query.limit = parse_page_size(request.page_size(), 50, 1000, problems);
  const auto note = [&](const std::string& field, const Status& status) {
    if (!status.ok()) problems.add(field, std::string(status.message()));
  };
  note("filter", for_each_term(request.filter(),
                               [&](const std::string& term) { return add_term(term, query); }));
  note("order_by", parse_order(request.order_by(), query));
  query.after = parse_page_token(list_fingerprint(request), request.page_token(), problems);
  EMOE_RETURN_IF_ERROR(bad_request(problems));
  return query;
}

}  // namespace emoe::server
