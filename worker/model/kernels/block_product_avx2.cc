#define EMOE_KERNELS avx2
#include "worker/model/kernels/block_product_body.inc"
