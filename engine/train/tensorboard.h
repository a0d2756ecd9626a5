/* Event files that TensorBoard reads: scalars by step.
 *
 * Format (TensorFlow's record_writer.h, crc32c in hash/crc32c.h, event.proto, summary.proto; written here from the
 * format alone): a file is a row of records, each of
 *   length            uint64, little endian
 *   masked crc32c     uint32 of those 8 bytes
 *   data              an Event in protobuf's wire format
 *   masked crc32c     uint32 of the data
 * masked: ((crc >> 15) | (crc << 17)) + 0xa282ead8. The first Event names the version, "brain.Event:2". A process that
 * goes on from a checkpoint begins a file of its own with a session log START at the step it goes on with: TensorBoard
 * then drops what an earlier process wrote from that step on.
 *
 * Writing never stops a run: the first failure is told and the file is given up. */
#ifndef MULL_ENGINE_TRAIN_TENSORBOARD_H
#define MULL_ENGINE_TRAIN_TENSORBOARD_H

#include "engine/core/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull_tb mull_tb;

/* A new file in dir, which is made when it is not there. step: the next one to be written, 1 in a new run. */
int mull_tb_open(const char *dir, int64_t step, mull_tb **out, mull_error *err);
/* Every number of values under its name, "/" groups them. At most a second later it is in the file. After a failure
 * nothing more is written and further calls return MULL_OK. */
int mull_tb_scalars(mull_tb *t, int64_t step, const json_t *values, mull_error *err);
/* Writes what is left. NULL is accepted. */
void mull_tb_close(mull_tb *t);

/* CRC-32C (Castagnoli, reflected 0x82f63b78), for tests and readers. */
uint32_t mull_crc32c(const void *p, size_t n);
uint32_t mull_crc32c_masked(const void *p, size_t n);

#endif
