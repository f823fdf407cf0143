// What a rank may say: messages of its session, one after another, to a controller with a running job. Whatever
// comes, the controller goes on, and its store has no more steps than were told.
#include "emoe/v1/worker_control_service.pb.h"
#include "tests/fuzz/fuzz_folder.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class Session final : public ControllerTest {
 public:
  void TestBody() override {}
  Session() {
    config_.max_jobs = 100;
    start_controller();
    begin();
  }
  ~Session() override { drop_controller(); }

  // A length of two bytes before each message.
  void say(std::string_view bytes) {
    if (++inputs_ % 200 == 0) begin();  // a job's events stay in the store: now and then a new one
    while (bytes.size() >= 2) {
      const size_t size = static_cast<uint8_t>(bytes[0]) + 256 * static_cast<uint8_t>(bytes[1]);
      const std::string_view part = bytes.substr(2, size);
      bytes.remove_prefix(2 + part.size());
      v1::WorkerMessage message;
      if (message.ParseFromArray(part.data(), static_cast<int>(part.size()))) take(message);
    }
    step();
    testing::expect(controller_->get(id_).ok());
  }

 private:
  void begin() {
    if (!id_.empty()) {
      (void)controller_->cancel(id_, "", {});
      launcher_.end(id_, 1, {});
      advance(std::chrono::seconds(30));
    }
    id_ = submit();
    step();
    channel_ = join(id_, 0, 1);
  }
  void take(v1::WorkerMessage& message) {
    switch (message.kind_case()) {
      case v1::WorkerMessage::kJoin:
        return controller_->post({channel_, message.join()});
      case v1::WorkerMessage::kHeartbeat:
        return controller_->post({channel_, message.heartbeat()});
      case v1::WorkerMessage::kReport:
        return controller_->post({channel_, message.report()});
      case v1::WorkerMessage::KIND_NOT_SET:
        return;
    }
  }
  std::string id_;
  std::shared_ptr<FakeChannel> channel_;
  int inputs_ = 0;
};

}  // namespace
}  // namespace emoe::server

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static emoe::server::Session session;
  session.say(emoe::testing::text_of(data, size));
  return 0;
}
