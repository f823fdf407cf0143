#include <gtest/gtest.h>

#include "server/job/errors.h"
#include "server/rpc/requests.h"

namespace emoe::server {
namespace {

struct Fields {
  int page_size = 0;
  std::string page_token;
  std::string filter;
  std::string order_by;
};

v1::ListJobsRequest list(const Fields& fields) {
  v1::ListJobsRequest request;
  request.set_page_size(fields.page_size);
  request.set_page_token(fields.page_token);
  request.set_filter(fields.filter);
  request.set_order_by(fields.order_by);
  return request;
}

Result<JobQuery> parse(const Fields& fields) {
  return parse_list_request(list(fields));
}

std::string reason_of(const Fields& fields) {
  const auto query = parse(fields);
  return query.ok() ? "" : error_detail_of(query.status()).reason;
}

TEST(ListRequest, ReadsFilters) {
  const auto query =
      parse({.filter = "state=RUNNING|QUEUED AND labels.team=research AND name=\"a b\""});
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->states, (std::vector<v1::JobState>{v1::RUNNING, v1::QUEUED}));
  EXPECT_EQ(query->labels, (std::map<std::string, std::string>{{"team", "research"}}));
  EXPECT_EQ(query->name, "a b");
  EXPECT_EQ(query->order, JobQuery::Order::create_time);
  EXPECT_TRUE(query->descending);
  EXPECT_EQ(query->limit, 50);
  EXPECT_TRUE(parse({.filter = "  "}).ok());
}

TEST(ListRequest, RefusesWhatDoesNotParse) {
  for (const char* filter :
       {"state", "state=", "state=running", "state=NOPE", "state=QUEUED OR name=x", "name=x AND",
        "AND name=x", "name=x name=y", "owner=me", "labels.=x", "name=\"open", "name=a AND name=b",
        "state=QUEUED AND state=RUNNING", "JOB_STATE_UNSPECIFIED", "state=JOB_STATE_UNSPECIFIED"}) {
    EXPECT_EQ(reason_of({.filter = filter}), "INVALID_FILTER") << filter;
  }
  for (const char* order : {"age", "name up", "name asc asc", "name,priority", "NAME"}) {
    EXPECT_EQ(reason_of({.order_by = order}), "INVALID_ORDER_BY") << order;
  }
  EXPECT_EQ(reason_of({.page_size = -1}), "INVALID_PAGE_SIZE");
  EXPECT_EQ(reason_of({.filter = "name=" + std::string(4092, 'x')}), "INVALID_FILTER");
}

TEST(ListRequest, AllProblemsComeAtOnce) {
  const auto query =
      parse({.page_size = -1, .page_token = "x", .filter = "state=NOPE", .order_by = "age"});
  std::vector<std::string> fields;
  for (const Violation& violation : violations_of(query.status())) {
    fields.push_back(violation.field);
  }
  EXPECT_EQ(fields, (std::vector<std::string>{"page_size", "filter", "order_by", "page_token"}));
}

TEST(ListRequest, OrdersAndLimits) {
  EXPECT_FALSE(parse({.order_by = "priority"})->descending);
  EXPECT_EQ(parse({.order_by = "priority desc"})->order, JobQuery::Order::priority);
  EXPECT_TRUE(parse({.order_by = " name  desc"})->descending);
  EXPECT_EQ(parse({.page_size = 5000})->limit, 1000);
  EXPECT_EQ(parse({.page_size = 7})->limit, 7);
}

TEST(ListRequest, PageTokensBelongToTheirRequest) {
  const Fields request{.filter = "name=x", .order_by = "name"};
  const std::string token = make_page_token(list_fingerprint(list(request)), "k\x01y", "job-1");
  const auto query = parse({.page_token = token, .filter = "name=x", .order_by = "name"});
  ASSERT_TRUE(query.ok());
  EXPECT_EQ(query->after->key, "k\x01y");
  EXPECT_EQ(query->after->id, "job-1");
  EXPECT_EQ(reason_of({.page_token = token, .filter = "name=y", .order_by = "name"}),
            "INVALID_PAGE_TOKEN");
  for (const char* bad : {"x", "..", "abc.def", "zz.zz.zz"}) {
    EXPECT_EQ(reason_of({.page_token = bad}), "INVALID_PAGE_TOKEN") << bad;
  }
}

}  // namespace
}  // namespace emoe::server
