// How the API server is reached and asked, and how its objects are followed: no network, no thread.
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/kubernetes/api_client.h"
#include "launcher/kubernetes/cluster_access.h"
#include "launcher/kubernetes/reflector.h"
#include "tests/launcher/fake_api_server.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---------------------------------------------------------------- access
class AccessTest : public ::testing::Test {
 protected:
  std::string refusal(const std::string& kubeconfig) {
    const auto access = find_access({.kubeconfig = dir_.write("kubeconfig", kubeconfig)});
    EXPECT_EQ(access.status().code(), StatusCode::kInvalidArgument);
    return std::string(access.status().message());
  }
  testing::TempDir dir_;
};

TEST_F(AccessTest, AKubeconfigWithFilesBesideIt) {
  dir_.write("token", "secret\n");
  dir_.write("ca.pem", "CA");
  const auto access = find_access({.kubeconfig = dir_.write("kubeconfig", R"(
current-context: here
contexts:
  - {name: elsewhere, context: {cluster: none, user: none}}
  - {name: here, context: {cluster: c, user: u, namespace: research}}
clusters:
  - {name: c, cluster: {server: "https://k:6443/", certificate-authority: ca.pem}}
users:
  - {name: u, user: {token: old, tokenFile: token}}
)")});
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_EQ(access->server, "https://k:6443");
  EXPECT_EQ(access->cluster_namespace, "research");
  EXPECT_EQ(*access->ca.read(), "CA");
  EXPECT_EQ(*access->token.read(), "secret");
}

TEST_F(AccessTest, AKubeconfigWithEverythingInIt) {
  const auto access = find_access({.kubeconfig = dir_.write("kubeconfig", R"(
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://k", certificate-authority-data: Q0E=, proxy-url: "http://p:1"}}]
users: [{name: u, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}]
)"),
                                   .context = "here",
                                   .cluster_namespace = "mine"});
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_EQ(*access->ca.read(), "CA");
  EXPECT_EQ(*access->certificate.read(), "cert");
  EXPECT_EQ(*access->key.read(), "key");
  EXPECT_EQ(access->proxy, "http://p:1");
  EXPECT_EQ(access->cluster_namespace, "mine");
  EXPECT_FALSE(access->token.given());
}

TEST_F(AccessTest, WhatAKubeconfigAsksInVain) {
  const auto with = [](const std::string& cluster, const std::string& user) {
    return "current-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
           "clusters: [{name: c, cluster: {server: \"https://k\"" +
           cluster + "}}]\nusers: [{name: u, user: {" + user + "}}]\n";
  };
  EXPECT_THAT(refusal(with("", "exec: {command: aws}")), HasSubstr("exec is not supported"));
  EXPECT_THAT(refusal(with(", insecure-skip-tls-verify: true", "token: t")),
              HasSubstr("always verified"));
  EXPECT_THAT(refusal(with(", certificate-authority-data: \"%\"", "token: t")),
              HasSubstr("certificate-authority-data is no base64"));
  EXPECT_THAT(refusal(with("", "")), HasSubstr("neither a token"));
  EXPECT_THAT(refusal("contexts: []\n"), HasSubstr("no current-context"));
  EXPECT_THAT(refusal("current-context: x\n"), HasSubstr("no context \"x\""));
  EXPECT_THAT(refusal("[1"), HasSubstr("kubeconfig"));
}

TEST_F(AccessTest, InAPod) {
  dir_.write("token", "t");
  dir_.write("ca.crt", "CA");
  dir_.write("namespace", "emoe");
  ::setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
  ::setenv("KUBERNETES_SERVICE_PORT", "6443", 1);
  const auto access = find_access({.service_account = dir_.path()});
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_EQ(access->server, "https://[fd00::1]:6443");
  EXPECT_EQ(access->cluster_namespace, "emoe");
  ::unsetenv("KUBERNETES_SERVICE_HOST");
  const auto nowhere = find_access({.service_account = dir_.path()});
  EXPECT_THAT(std::string(nowhere.status().message()), HasSubstr("no way to a cluster"));
}

TEST_F(AccessTest, WithoutTlsNothingIsSaid) {
  const auto token = dir_.write("token", "t");
  EXPECT_THAT(
      std::string(find_access({.server = "http://k", .token_file = token}).status().message()),
      HasSubstr("is not https://"));
  EXPECT_EQ(find_access({.server = "https://k", .ca_file = dir_ / "none", .token_file = token})
                .status()
                .code(),
            StatusCode::kNotFound);
}

// ---------------------------------------------------------------- requests
class ApiClientTest : public AccessTest {
 protected:
  ApiClientTest() { dir_.write("token", "first"); }
  Status get() { return client_.call("GET", client_.mpi_jobs("x")).status(); }

  testing::FakeClock clock_;
  FakeApiServer server_;
  ApiClient client_{
      {.server = "https://k", .cluster_namespace = "ns", .token = {"", dir_ / "token"}},
      server_,
      clock_,
      5s};
};

TEST_F(ApiClientTest, ARotatedTokenIsReadAgainOnce) {
  server_.set("mpijobs", {{"metadata", {{"name", "x"}}}});
  EXPECT_TRUE(get().ok());
  dir_.write("token", "second");
  server_.next_status(401);
  EXPECT_TRUE(get().ok());
  EXPECT_THAT(server_.tokens, ElementsAre("first", "first", "second"));
  server_.next_status(401);
  server_.next_status(401);
  const Status refused = get();
  EXPECT_EQ(refused.code(), StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("does not take the token in"));
  EXPECT_EQ(server_.requests.size(), 5u);
}

TEST_F(ApiClientTest, ABusyServerIsLeftInPeace) {
  server_.next_status(429, "TooManyRequests", "later", 7s);
  EXPECT_EQ(get().code(), StatusCode::kUnavailable);
  clock_.advance(6s);
  EXPECT_EQ(get().code(), StatusCode::kUnavailable);
  EXPECT_EQ(server_.requests.size(), 1u);
  clock_.advance(1s);
  EXPECT_EQ(get().code(), StatusCode::kNotFound);
  // Without a wish of its own: twice as long each time.
  for (const auto pause : {500ms, 1000ms, 2000ms}) {
    server_.next_status(503);
    EXPECT_EQ(get().code(), StatusCode::kInternal);
    EXPECT_EQ(client_.pause(), pause);
    clock_.advance(pause);
  }
  EXPECT_EQ(get().code(), StatusCode::kNotFound);
  server_.next([](const HttpRequest&) { return Result<HttpAnswer>(absl::UnavailableError("x")); });
  EXPECT_EQ(get().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client_.pause(), 500ms);
}

TEST_F(ApiClientTest, WhatTheServerSaysAndWhatToDo) {
  struct Case {
    int status;
    const char* reason;
    const char* message;
    StatusCode code;
    const char* says;
  };
  for (const Case& c :
       {Case{403, "Forbidden", "mpijobs is forbidden: User \"u\" cannot create",
             StatusCode::kPermissionDenied, "access.yaml"},
        Case{403, "Forbidden", "exceeded quota: pods", StatusCode::kResourceExhausted, "quota"},
        Case{404, "NotFound", "the server could not find the requested resource",
             StatusCode::kNotFound, "install the MPI operator"},
        Case{404, "NotFound", "namespaces \"ns\" not found", StatusCode::kNotFound,
             "namespaces \"ns\""},
        Case{409, "AlreadyExists", "x", StatusCode::kAlreadyExists, "x"},
        Case{409, "Conflict", "x", StatusCode::kAborted, "x"},
        Case{410, "Expired", "too old", StatusCode::kOutOfRange, "too old"},
        Case{422, "Invalid", "spec.x: Required value", StatusCode::kInvalidArgument,
             "spec.x: Required value"},
        Case{500, "InternalError", "etcd", StatusCode::kInternal, "etcd"}}) {
    server_.next_status(c.status, c.reason, c.message);
    const Status status = get();
    EXPECT_EQ(status.code(), c.code) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    clock_.advance(1min);
  }
}

// ---------------------------------------------------------------- watches
class ReflectorTest : public ApiClientTest {
 protected:
  static json object(const std::string& name, const std::string& version,
                     const std::string& x = "") {
    return {{"metadata", {{"name", name}, {"resourceVersion", version}, {"managedFields", {1, 2}}}},
            {"x", x}};
  }
  static std::string line(const std::string& type, const json& object) {
    return json{{"type", type}, {"object", object}}.dump() + "\n";
  }
  Status round() {
    clock_.advance(1min);
    return reflector_.round({});
  }
  Reflector reflector_{client_, client_.pods(), "a=b"};
};

TEST_F(ReflectorTest, ListsAndFollows) {
  EXPECT_FALSE(reflector_.state().ok());
  server_.set("pods", object("p", "5"));
  server_.watched = {line("ADDED", object("q", "8")) + line("DELETED", object("p", "9")) +
                     line("BOOKMARK", object("", "12"))};
  EXPECT_TRUE(round().ok());
  EXPECT_TRUE(reflector_.state().ok());
  EXPECT_EQ(reflector_.find("p"), std::nullopt);
  EXPECT_FALSE(reflector_.find("q")->at("metadata").contains("managedFields"));
  EXPECT_TRUE(round().ok());
  EXPECT_THAT(server_.requests.back(), HasSubstr("resourceVersion=12"));
  EXPECT_THAT(server_.requests.front(), HasSubstr("labelSelector=a%3Db"));
}

TEST_F(ReflectorTest, ALineThatIsCutComesAgain) {
  const std::string second = line("MODIFIED", object("q", "9", "new"));
  server_.watched = {line("ADDED", object("q", "8")) + second.substr(0, 20), second};
  EXPECT_TRUE(round().ok());
  EXPECT_EQ(reflector_.find("q")->at("x"), "");
  EXPECT_TRUE(round().ok());
  EXPECT_THAT(server_.requests.back(), HasSubstr("resourceVersion=8"));
  EXPECT_EQ(reflector_.find("q")->at("x"), "new");
}

TEST_F(ReflectorTest, AfterAnExpiredVersionItListsAgain) {
  server_.set("pods", object("p", "5"));
  server_.watched = {line("ERROR", {{"code", 410}, {"message", "too old"}})};
  EXPECT_EQ(round().code(), StatusCode::kOutOfRange);
  EXPECT_TRUE(reflector_.state().ok()) << "what is known is as good as before";
  server_.objects["pods"].clear();
  EXPECT_TRUE(round().ok());
  EXPECT_EQ(reflector_.find("p"), std::nullopt);
}

TEST_F(ReflectorTest, WhatIsKnownWhileTheServerIsAwayMayBeOld) {
  EXPECT_TRUE(round().ok());
  const auto broken = [](const HttpRequest&) {
    return Result<HttpAnswer>(absl::AbortedError("reset"));
  };
  for (int i = 0; i < 2; ++i) {
    server_.next(broken);
    EXPECT_FALSE(round().ok());
    EXPECT_TRUE(reflector_.state().ok()) << "a connection may break";
  }
  server_.next(broken);
  EXPECT_FALSE(round().ok());
  EXPECT_FALSE(reflector_.state().ok());
  server_.watched = {line("ADDED", object("q", "8"))};
  EXPECT_TRUE(round().ok());
  EXPECT_TRUE(reflector_.state().ok());
  server_.next_status(403, "Forbidden", "cannot watch");
  EXPECT_EQ(round().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(reflector_.state().message()), HasSubstr("cannot watch"));
}

}  // namespace
}  // namespace emoe::launcher
