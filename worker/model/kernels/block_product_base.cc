#define EMOE_KERNELS base
#include "worker/model/kernels/block_product_body.inc"
