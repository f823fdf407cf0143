#define EMOE_KERNELS avx512
#include "worker/model/kernels/attention_kernel_body.inc"
