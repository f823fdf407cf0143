#define EMOE_KERNELS avx2
#include "worker/emoe/byte_products_body.inc"
