#define EMOE_KERNELS avx512bf16
#include "worker/model/kernels/attention_kernel_body.inc"
