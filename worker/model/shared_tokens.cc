#include "worker/model/shared_tokens.h"

#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class ToRows : public torch::autograd::Function<ToRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& token,
                            const at::Tensor& first, const at::Tensor& again,
                            const at::Tensor& again_of, const at::Tensor& shared) {
    ctx->save_for_backward({first, again, again_of, shared});
    return x.index_select(0, token);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& g = grads[0];
    at::Tensor dx = g.index_select(0, saved[0]);
    at::Tensor sums = dx.index_select(0, saved[3]).to(at::kFloat);
    sums.index_add_(0, saved[2], g.index_select(0, saved[1]).to(at::kFloat));
    dx.index_copy_(0, saved[3], sums.to(g.scalar_type()));
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

class FromRows : public torch::autograd::Function<FromRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y, const at::Tensor& first) {
    ctx->save_for_backward({first});
    ctx->saved_data["rows"] = y.size(0);
    return y.index_select(0, first);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    std::vector<int64_t> shape = grads[0].sizes().vec();
    shape[0] = ctx->saved_data["rows"].toInt();
    at::Tensor dy = at::zeros(shape, grads[0].options());
    dy.index_copy_(0, ctx->get_saved_variables()[0], grads[0]);
    return {dy, at::Tensor()};
  }
};

}  // namespace

SharedTokens::SharedTokens(const PackedBatch& batch, Upload& upload) {
  if (!batch.row_tokens.empty()) add_to(upload, batch);
}

void SharedTokens::add_to(Upload& upload, const PackedBatch& batch) {
  std::vector<int64_t> first;
  std::vector<int64_t> again;
  std::vector<int64_t> again_of;
  std::vector<int64_t> shared;
  std::vector<int64_t> place(batch.num_tokens(), -1);  // in `shared`
  for (int64_t r = 0; r < batch.num_row_tokens(); ++r) {
    const int64_t token = batch.row_tokens[r];
    if (token == std::ssize(first)) {
      first.push_back(r);
      continue;
    }
    if (place[token] < 0) {
      place[token] = std::ssize(shared);
      shared.push_back(token);
    }
    again.push_back(r);
    again_of.push_back(place[token]);
  }
  upload.add(batch.row_tokens, token_);
  upload.add(first, first_);
  upload.add(again, again_);
  upload.add(again_of, again_of_);
  upload.add(shared, shared_);
}

SharedTokens::SharedTokens(const PackedBatch& batch, at::Device device) {
  if (batch.row_tokens.empty()) return;
  Upload upload(device);
  add_to(upload, batch);
  upload.send();
}

at::Tensor SharedTokens::to_rows(const at::Tensor& x) const {
  return token_.defined() ? ToRows::apply(x, token_, first_, again_, again_of_, shared_) : x;
}

at::Tensor SharedTokens::from_rows(const at::Tensor& y) const {
  return token_.defined() ? FromRows::apply(y, first_) : y;
}

}  // namespace emoe::worker
