#include "worker/model/embedding.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Arguments: the fp32 master, the table as computed with, the ids.
class EmbedTokens : public torch::autograd::Function<EmbedTokens> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& master, const at::Tensor& table,
                            const at::Tensor& ids) {
    ctx->save_for_backward({ids});
    ctx->saved_data["rows"] = master.size(0);
    return at::embedding(table, ids);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor ids = ctx->get_saved_variables()[0];
    const at::Tensor gradient = at::embedding_dense_backward(
        grads[0].to(at::kFloat), ids, ctx->saved_data["rows"].toInt(), /*padding_idx=*/-1,
        /*scale_grad_by_freq=*/false);
    return {gradient, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embed_tokens(const Weight& embedding, const at::Tensor& ids) {
  const at::Tensor table = embedding.compute.detach();
  if (!embedding.trainable()) return at::embedding(table, ids);
  return EmbedTokens::apply(embedding.master, table, ids);
}

}  // namespace emoe::worker
