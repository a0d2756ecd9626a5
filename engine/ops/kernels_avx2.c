/* The kernels for avx2; see kernels_impl.h. Flags: engine/kernels.cmake. */
#if defined(__x86_64__)
#define MULL_VL 8
#define MULL_MR 3
#define MULL_ISA_NAME "avx2"
#define MULL_TABLE mull_kernels_avx2
#include "engine/ops/kernels_impl.h"
#else
typedef int mull__no_avx2;
#endif
