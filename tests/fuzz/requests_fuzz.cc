// Page tokens, filters and orders of lists: the first byte says which. A token that was made is read again.
#include "base/diagnostics.h"
#include "server/rpc/requests.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace emoe;
  if (size == 0) return 0;
  const std::string text(testing::text_of(data + 1, size - 1));
  v1::ListJobsRequest request;
  switch (data[0] % 4) {
    case 0: {
      Diagnostics problems;
      (void)server::parse_page_token("request", text, problems);
      const std::string token = server::make_page_token("request", text, text);
      const auto cursor = server::parse_page_token("request", token, problems);
      testing::expect(cursor && cursor->key == text && cursor->id == text);
      break;
    }
    case 1:
      request.set_filter(text);
      (void)server::parse_list_request(request);
      break;
    case 2:
      request.set_order_by(text);
      request.set_page_token(text);
      (void)server::parse_list_request(request);
      break;
    default:
      (void)server::parse_audit_filter(text);
  }
  return 0;
}
