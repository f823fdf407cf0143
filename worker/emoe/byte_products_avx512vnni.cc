#define EMOE_KERNELS avx512vnni
#include "worker/emoe/byte_products_body.inc"
