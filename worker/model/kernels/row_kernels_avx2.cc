#define EMOE_KERNELS avx2
#include "worker/model/kernels/row_kernels_body.inc"
