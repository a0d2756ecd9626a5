/* cmocka with the headers it wants before it. */
#ifndef MULL_TESTS_SUPPORT_CHECK_H
#define MULL_TESTS_SUPPORT_CHECK_H

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */
#include <signal.h>

#endif
