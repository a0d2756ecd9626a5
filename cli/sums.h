/* A checkpoint's files on this machine: checked against recorded sums, and taken away. */
#ifndef MULL_CLI_SUMS_H
#define MULL_CLI_SUMS_H

#include <jansson.h>
#include <stddef.h>

/* Reads DIR/NAME and compares its size (bytes < 0: not) and SHA-256. 0, or -1 with why. */
int mull_sums_check(const char *dir, const char *name, long long bytes, const char *sha256, char *why, size_t cap);
/* Copies the files of a record (objects with name, bytes, sha256) and SHA256SUMS from a checkpoint's folder to dir,
 * which must not be there, and checks every sum of the copies. What an interrupted call left in DIR.part is written
 * again. 0, or -1 with why. */
int mull_checkpoint_copy(const char *from, const json_t *files, const char *sums_sha256, const char *dir, char *why,
                         size_t cap);
/* Removes the folder of a checkpoint: its name must be checkpoint-N, it must be a folder, no link, with a
 * trainer_state.json and no folders in it. It is renamed first, so that nobody finds half of it; one that was renamed
 * by an earlier call is finished. 0, 1: there is none here, or -1 with why. */
int mull_checkpoint_erase(const char *path, char *why, size_t cap);

#endif
