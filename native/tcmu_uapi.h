// linux/target_core_user.h brings the kernel's own struct iovec, which the C library's headers define as
// well.
#pragma once
#define iovec linux_iovec
#include <linux/target_core_user.h>
#undef iovec
