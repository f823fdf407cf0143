#define EMOE_KERNELS avx2
#include "worker/model/kernels/attention_kernel_body.inc"
