#define EMOE_KERNELS avx512bf16
#include "worker/model/kernels/block_product_body.inc"
