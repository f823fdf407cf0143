#define EMOE_KERNELS base
#include "worker/model/kernels/attention_kernel_body.inc"
