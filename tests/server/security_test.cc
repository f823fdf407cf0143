#include <filesystem>
#include <fstream>
#include <set>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/sha256.h"
#include "config/config.h"
#include "server/job/errors.h"
#include "server/security/audit_log.h"
#include "server/security/authorizer.h"
#include "server/security/rate_limiter.h"
#include "server/security/security_config.h"
#include "server/security/token_file.h"
#include "tests/metrics/fake.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

class SecurityTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path file(const std::string& name) const { return dir_.path() / name; }
  void write(const fs::path& path, const std::string& text) {
    ASSERT_TRUE(write_file_atomically(path, text).ok());
  }
  static std::string entry(const std::string& name, const std::string& secret,
                           const std::string& rest) {
    return "  - {name: " + name + ", sha256: " + sha256_hex(secret) + ", " + rest + "}\n";
  }
  double reloads(const std::string& result) const {
    return registry_.value("emoe_security_reloads_total", {{"file", "tokens"}, {"result", result}})
        .value_or(-1);
  }

  testing::TempDir dir_;
  metrics::FakeRegistry registry_;
  SecurityProbe probe_{registry_};
};

// ---------------------------------------------------------------- tokens
TEST_F(SecurityTest, ATokenIsFoundByItsDigest) {
  write(file("tokens"), "tokens:\n" + entry("ci", "s1", "role: user, project: research") +
                            entry("root", "s2", "role: admin"));
  const auto tokens = TokenFile::open(file("tokens"), {}, probe_);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  const auto ci = (*tokens)->find("s1");
  ASSERT_TRUE(ci.has_value());
  EXPECT_EQ(ci->name, "ci");
  EXPECT_EQ(ci->role, Role::user);
  EXPECT_EQ(ci->project, "research");
  EXPECT_EQ((*tokens)->find("s2")->role, Role::admin);
  EXPECT_FALSE((*tokens)->find("s3"));
  EXPECT_FALSE((*tokens)->find(sha256_hex("s1"))) << "a digest is no token";
}

TEST_F(SecurityTest, AChangedTokensFileCountsFromTheNextCallOn) {
  write(file("tokens"), "tokens:\n" + entry("a", "s1", "role: viewer, project: p"));
  const auto tokens = TokenFile::open(file("tokens"), {}, probe_);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_TRUE((*tokens)->find("s1"));
  write(file("tokens"), "tokens:\n" + entry("a", "s2", "role: viewer, project: p"));
  EXPECT_FALSE((*tokens)->find("s1"));
  EXPECT_TRUE((*tokens)->find("s2"));
  EXPECT_EQ(reloads("taken"), 1);
  // In place, with the same size, a moment later.
  std::ofstream(file("tokens")) << "tokens:\n" + entry("a", "s3", "role: viewer, project: p");
  EXPECT_FALSE((*tokens)->find("s2"));
  EXPECT_TRUE((*tokens)->find("s3"));
}

TEST_F(SecurityTest, ABrokenTokensFileLeavesTheOldOnesInForce) {
  write(file("tokens"), "tokens:\n" + entry("a", "s1", "role: viewer, project: p"));
  const auto tokens = TokenFile::open(file("tokens"), {}, probe_);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  for (const char* broken : {"tokens: [", "tokens: [{name: a}]", "{}x"}) {
    write(file("tokens"), broken);
    EXPECT_TRUE((*tokens)->find("s1")) << broken;
  }
  EXPECT_EQ(reloads("refused"), 3);
  EXPECT_EQ(reloads("taken"), 0);
  fs::remove(file("tokens"));
  EXPECT_TRUE((*tokens)->find("s1"));
  write(file("tokens"), "tokens: []");
  EXPECT_FALSE((*tokens)->find("s1"));
}

TEST_F(SecurityTest, EveryFaultOfATokensFileIsNamedAndNoDigestIsShown) {
  const std::string digest = sha256_hex("x");
  const auto parsed = config::parse_token_file(
      "tokens:\n"
      "  - {name: a, sha256: " +
          digest +
          ", role: viewer, project: p}\n"
          "  - {name: a, sha256: " +
          digest +
          ", role: emperor, project: p}\n"
          "  - {name: b, sha256: SECRETTOKEN, role: user}\n"
          "  - {role: admin}\n",
      "tokens.yaml");
  ASSERT_FALSE(parsed.ok());
  const std::string text(parsed.status().message());
  for (const char* part :
       {"tokens.yaml:3: tokens[1].sha256: is given twice", "tokens[1].name: \"a\" is given twice",
        "tokens[1].role", "tokens[2].sha256: is no SHA-256", "tokens[2].project: is required",
        "tokens[3].name: is required", "tokens[3].sha256: is required"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  EXPECT_EQ(text.find(digest), std::string::npos);
  EXPECT_EQ(text.find("SECRETTOKEN"), std::string::npos);
}

TEST_F(SecurityTest, ATokensFileMustNotBeEverybodysToWriteNorWidenTheRoots) {
  write(file("tokens"), "tokens: []");
  fs::permissions(file("tokens"), fs::perms::others_write, fs::perm_options::add);
  EXPECT_FALSE(TokenFile::open(file("tokens"), {}, probe_).ok());
  fs::create_directories(file("data/a"));
  const std::string root = file("data").string();
  const auto open = [&](const std::string& roots) {
    write(file("rooted"),
          "tokens:\n" + entry("a", "s", "role: user, project: p, allowed_roots: [" + roots + "]"));
    return TokenFile::open(file("rooted"), {root}, probe_).status();
  };
  EXPECT_TRUE(open(root + "/a").ok()) << open(root + "/a");
  EXPECT_FALSE(open("/etc").ok());
  EXPECT_FALSE(open("data").ok());
  fs::create_symlink("/etc", file("data/link"));
  EXPECT_FALSE(open(root + "/link").ok());
}

// ---------------------------------------------------------------- roles
TEST(Authorizer, EveryMethodOfTheServiceHasARow) {
  std::set<std::string> methods;
  const auto* service = v1::AuditEntry::descriptor()->file()->FindServiceByName("FineTuning");
  for (int i = 0; i < service->method_count(); ++i) methods.insert(service->method(i)->name());
  std::set<std::string> rows;
  for (const MethodRule& rule : kMethodRules) EXPECT_TRUE(rows.insert(rule.method).second);
  EXPECT_EQ(rows, methods);
}

TEST(Authorizer, WhatChangesSomethingTakesAUserAndIsWrittenDown) {
  for (const MethodRule& rule : kMethodRules) {
    const std::string name = rule.method;
    const bool reads = name.starts_with("Get") || name.starts_with("List") ||
                       name.starts_with("Watch") || name.starts_with("Plan");
    EXPECT_EQ(rule.changes, !reads) << name;
    EXPECT_TRUE(!rule.changes || rule.least >= Role::user) << name;
    for (const Role role : {Role::viewer, Role::user, Role::admin}) {
      const Status status = check_role(rule.method, {.name = "x", .role = role, .project = "p"});
      EXPECT_EQ(status.ok(), role >= rule.least) << name;
      EXPECT_EQ(error_detail_of(status).reason, status.ok() ? "" : "ROLE_TOO_LOW");
    }
  }
  EXPECT_EQ(check_role("NoSuchMethod", {}).code(), StatusCode::kPermissionDenied);
}

// ---------------------------------------------------------------- calls a second
TEST(RateLimiter, GivesABurstThenARate) {
  testing::FakeClock clock;
  RateLimiter limiter({.per_second = 2, .burst = 3}, clock);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(limiter.take("a"));
  const auto wait = limiter.take("a");
  ASSERT_TRUE(wait.has_value());
  EXPECT_DOUBLE_EQ(wait->count(), 0.5);
  EXPECT_FALSE(limiter.take("b")) << "another caller has a bucket of its own";
  clock.advance(std::chrono::milliseconds(500));
  EXPECT_FALSE(limiter.take("a"));
  EXPECT_TRUE(limiter.take("a").has_value());
  clock.advance(std::chrono::hours(1));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(limiter.take("a"));
  EXPECT_TRUE(limiter.take("a").has_value()) << "a bucket never holds more than its burst";
}

TEST(RateLimiter, ForgetsCallersWhoseBucketsAreFullAgain) {
  testing::FakeClock clock;
  RateLimiter limiter({.per_second = 1, .burst = 1}, clock);
  for (int i = 0; i < 20'000; ++i) {
    clock.advance(std::chrono::milliseconds(10));
    (void)limiter.take(std::to_string(i));
  }
  EXPECT_LE(limiter.buckets(), 10'001U);
  EXPECT_FALSE(RateLimiter({.per_second = 0, .burst = 1}, clock).take("x"));
}

// ---------------------------------------------------------------- audit
v1::AuditEntry entry_of(int number, const std::string& principal = "ann") {
  v1::AuditEntry entry;
  entry.mutable_time()->set_seconds(1'700'000'000 + number);
  entry.set_principal(principal);
  entry.set_method("CreateJob");
  entry.set_job_id("job-" + std::to_string(number));
  entry.set_code("OK");
  return entry;
}

std::vector<std::string> ids_of(const AuditLog::Page& page) {
  std::vector<std::string> ids;
  for (const auto& entry : page.entries) ids.push_back(entry.job_id());
  return ids;
}

TEST_F(SecurityTest, AuditEntriesComeNewestFirstPageByPage) {
  auto log = AuditLog::open(file("audit"), probe_);
  ASSERT_TRUE(log.ok()) << log.status();
  constexpr int kEntries = 2000;  // several of the blocks that are read
  for (int i = 0; i < kEntries; ++i) (*log)->append(entry_of(i, i % 2 == 0 ? "ann" : "bob"));
  std::optional<AuditLog::Cursor> after;
  int expected = kEntries;
  do {
    const auto page = (*log)->list({}, after, 300);
    ASSERT_TRUE(page.ok() && page->has_value()) << page.status();
    for (const std::string& id : ids_of(**page)) {
      EXPECT_EQ(id, "job-" + std::to_string(--expected));
    }
    after = (*page)->next;
    (*log)->append(entry_of(-1));  // what comes meanwhile disturbs no page
  } while (after);
  EXPECT_EQ(expected, 0);
  const auto some = (*log)->list({{"principal", "bob"}, {"code", "OK"}}, std::nullopt, 2);
  ASSERT_TRUE(some.ok() && some->has_value());
  EXPECT_EQ(ids_of(**some), (std::vector<std::string>{"job-1999", "job-1997"}));
  struct stat info {};
  ASSERT_EQ(::stat(file("audit").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST_F(SecurityTest, ACallAboutManyJobsLeavesALineForEach) {
  auto log = AuditLog::open(file("audit"), probe_);
  ASSERT_TRUE(log.ok()) << log.status();
  v1::AuditEntry entry = entry_of(0, "an\"job_id\":\"@\"n @");
  (*log)->append(entry, {"job-1", "job-2", "job-3"});
  const auto all = (*log)->list({}, std::nullopt, 10);
  ASSERT_TRUE(all.ok() && all->has_value());
  EXPECT_EQ(ids_of(**all), (std::vector<std::string>{"job-3", "job-2", "job-1"}));
  const auto one = (*log)->list({{"job_id", "job-2"}}, std::nullopt, 10);
  ASSERT_EQ(ids_of(**one), std::vector<std::string>{"job-2"});
  entry.set_job_id("job-2");
  EXPECT_EQ((*one)->entries[0].DebugString(), entry.DebugString()) << "only the id is another one";
}

TEST_F(SecurityTest, TheAuditFileMayBeRenamedAndATornLineSpoilsNoOther) {
  {
    auto log = AuditLog::open(file("audit"), probe_);
    ASSERT_TRUE(log.ok());
    (*log)->append(entry_of(1));
    (*log)->append(entry_of(2));
  }
  fs::resize_file(file("audit"), fs::file_size(file("audit")) - 10);  // the power went
  auto log = AuditLog::open(file("audit"), probe_);
  ASSERT_TRUE(log.ok());
  (*log)->append(entry_of(3));
  auto page = (*log)->list({}, std::nullopt, 1);
  ASSERT_TRUE(page.ok() && page->has_value());
  const auto cursor = (*page)->next;
  ASSERT_TRUE(cursor);
  page = (*log)->list({}, cursor, 10);
  EXPECT_EQ(ids_of(**page), std::vector<std::string>{"job-1"});
  fs::rename(file("audit"), file("audit.1"));
  (*log)->append(entry_of(4));
  page = (*log)->list({}, std::nullopt, 10);
  EXPECT_EQ(ids_of(**page), std::vector<std::string>{"job-4"});
  page = (*log)->list({}, cursor, 10);
  ASSERT_TRUE(page.ok());
  EXPECT_FALSE(page->has_value()) << "a place in another file";
}

TEST_F(SecurityTest, NothingIsChangedWhileAuditLinesCannotBeWritten) {
  auto log = AuditLog::open(file("folder/../audit"), probe_);
  EXPECT_FALSE(log.ok()) << "there is no such folder";
  fs::create_directory(file("folder"));
  log = AuditLog::open(file("folder/audit"), probe_);
  ASSERT_TRUE(log.ok()) << log.status();
  fs::rename(file("folder"), file("gone"));
  (*log)->append(entry_of(1));
  EXPECT_EQ(error_detail_of((*log)->ready()).reason, "AUDIT_FAILED");
  EXPECT_EQ(registry_.value("emoe_audit_failures_total"), 1);
  fs::rename(file("gone"), file("folder"));
  EXPECT_TRUE((*log)->ready().ok());
  const auto page = (*log)->list({}, std::nullopt, 10);
  EXPECT_EQ(ids_of(**page), std::vector<std::string>{"job-1"});
}

TEST_F(SecurityTest, TheAuditFileIsNoLink) {
  write(file("victim"), "");
  fs::create_symlink(file("victim"), file("audit"));
  EXPECT_FALSE(AuditLog::open(file("audit"), probe_).ok());
}

// ---------------------------------------------------------------- where it listens
TEST(SecurityConfig, LoopbackIsKnownByItsAddress) {
  for (const char* here : {"127.0.0.1:1", "127.9.9.9:0", "localhost:7070", "[::1]:1", "unix:/x"}) {
    EXPECT_TRUE(is_loopback(here)) << here;
  }
  for (const char* there : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "127.evil.example:1", "n1:7070"}) {
    EXPECT_FALSE(is_loopback(there)) << there;
  }
}

Status checked(const std::string& yaml) {
  const auto config = config::parse_coordinator_config(yaml, "x", {});
  EXPECT_TRUE(config.ok()) << config.status();
  return check_security(*config);
}

TEST(SecurityConfig, BeyondLoopbackThereIsTlsAndAuthenticationOrAWord) {
  const std::string tls = "tls: {certificate: /c, key: /k}\n";
  const std::string auth = "auth: {tokens: /t}\n";
  const std::string wide = "listen: 0.0.0.0:1\n";
  const std::string wide_metrics = "metrics_listen: 0.0.0.0:1\n";
  for (const std::string& good :
       {std::string(), tls, auth, wide + tls + auth, wide + "allow_insecure: true\n",
        wide + wide_metrics + tls + auth, wide_metrics + tls,
        wide_metrics + "allow_insecure: true\n",
        wide_metrics + std::string("tls: {certificate: /c, key: /k, metrics: false}\n")}) {
    EXPECT_TRUE(checked(good).ok()) << good << checked(good);
  }
  for (const std::string& bad :
       {wide, wide + tls, wide + auth, wide + "allow_insecure: false\n", wide_metrics,
        std::string("tls: {certificate: /c}\n"), std::string("tls: {key: /k}\n"),
        std::string("tls: {client_ca: /c}\n"),
        std::string("tls: {certificate: /c, key: /k, client_ca: /a}\n"),
        std::string("auth: {quotas: [{project: a}, {project: a}]}\n")}) {
    EXPECT_FALSE(checked(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace emoe::server
