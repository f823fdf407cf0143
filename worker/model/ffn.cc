#include "worker/model/ffn.h"

#include <stdexcept>

namespace emoe::worker {

const std::map<std::string, MakeFfn>& ffn_backends() {
  static const std::map<std::string, MakeFfn> backends = {{"masked", make_masked_ffn},
                                                          {"sparse", make_sparse_ffn}};
  return backends;
}

std::unique_ptr<FfnBackend> find_ffn(const std::string& name) {
  const auto found = ffn_backends().find(name);
  if (found == ffn_backends().end()) throw std::invalid_argument("no FFN back-end " + name);
  return found->second();
}

std::string faster_ffn(const std::map<std::string, double>& seconds) {
  return seconds.at("sparse") < 0.9 * seconds.at("masked") ? "sparse" : "masked";
}

}  // namespace emoe::worker
