/* The kernels for CPUs that also have bf16 dot products; see kernels_impl.h. Flags: engine/kernels.cmake. */
#if defined(__x86_64__)
#define MULL_VL 16
#define MULL_MR 12
#define MULL_ISA_NAME "bf16"
#define MULL_TABLE mull_kernels_bf16
#define MULL_VNNI 1
#define MULL_BF16_DOT 1
#include "engine/ops/kernels_impl.h"
#else
typedef int mull__no_bf16;
#endif
