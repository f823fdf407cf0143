#define EMOE_KERNELS avx512
#include "worker/model/kernels/block_product_body.inc"
