#define EMOE_KERNELS base
#include "worker/model/kernels/row_kernels_body.inc"
