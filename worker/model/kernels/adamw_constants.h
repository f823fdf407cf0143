#pragma once

namespace emoe::worker {

// The constants of one AdamW step (arXiv 1711.05101), as torch.optim.AdamW has them: computed in
// double, used in single precision.
struct AdamwConstants {
  float gradient_scale = 1.0F;  // clipping
  float weight_factor = 1.0F;   // 1 - rate * weight_decay
  float one_minus_beta1 = 0.1F;
  float beta2 = 0.999F;
  float one_minus_beta2 = 0.001F;
  float step_size = 0.0F;         // rate / (1 - beta1^t)
  float sqrt_correction2 = 1.0F;  // sqrt(1 - beta2^t)
  float epsilon = 1e-8F;
};

}  // namespace emoe::worker
