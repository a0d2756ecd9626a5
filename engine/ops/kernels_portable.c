/* The kernels for portable; see kernels_impl.h. Flags: engine/kernels.cmake. */
#define MULL_VL 4
#define MULL_MR 3
#define MULL_ISA_NAME "portable"
#define MULL_TABLE mull_kernels_portable
#include "engine/ops/kernels_impl.h"
