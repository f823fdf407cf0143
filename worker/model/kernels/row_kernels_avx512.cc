#define EMOE_KERNELS avx512
#include "worker/model/kernels/row_kernels_body.inc"
