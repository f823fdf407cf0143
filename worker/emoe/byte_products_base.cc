#define EMOE_KERNELS base
#include "worker/emoe/byte_products_body.inc"
