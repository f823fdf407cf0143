#include "worker/model/onednn.h"

#include <optional>
#include <string_view>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "worker/model/products.h"

namespace emoe::worker {

bool has_onednn(at::ScalarType type) {
  if (!at::hasMKLDNN()) return false;
  return type == at::kFloat ||
         (type == at::kBFloat16 && !widens_halves(at::empty({0}, at::TensorOptions(type))));
}

at::Tensor onednn_product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& sum) {
  using Plain = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                           std::string_view, c10::List<std::optional<at::Scalar>>,
                           std::optional<std::string_view>);
  using Binary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            const std::optional<at::Tensor>&, std::string_view);
  auto& operators = c10::Dispatcher::singleton();
  static const auto plain =
      operators.findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Plain>();
  static const auto binary =
      operators.findSchemaOrThrow("mkldnn::_linear_pointwise", "binary").typed<Binary>();
  if (sum.defined()) return binary.call(x, sum, w, std::nullopt, "add");
  return plain.call(x, w, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor packed_for_onednn(const at::Tensor& w) {
  constexpr int64_t kRows = 2048;  // of x; any number that is not small gives the same order
  using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
  static const auto reorder = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                                  .typed<Reorder>();
  return reorder.call(w.detach(), kRows);
}

}  // namespace emoe::worker
