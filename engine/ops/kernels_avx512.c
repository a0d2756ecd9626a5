/* The kernels for avx512; see kernels_impl.h. Flags: engine/kernels.cmake. */
#if defined(__x86_64__)
#define MULL_VL 16
#define MULL_MR 12
#define MULL_ISA_NAME "avx512"
#define MULL_TABLE mull_kernels_avx512
#include "engine/ops/kernels_impl.h"
#else
typedef int mull__no_avx512;
#endif
