// CRC-32C (Castagnoli) without pre- and post-inversion, as ZFile and the other overlaybd formats use it.
// Chains directly: crc(A||B, s) == crc(B, crc(A, s)). Any thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint32_t obd_crc32c(const void *data, size_t length, uint32_t seed);

#ifdef __cplusplus
}
#endif
