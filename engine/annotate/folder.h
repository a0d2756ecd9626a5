/* A folder of media as input: written out once as rows with a column image or video for each file. */
#ifndef MULL_ENGINE_ANNOTATE_FOLDER_H
#define MULL_ENGINE_ANNOTATE_FOLDER_H

#include "engine/annotate/fileio.h"

/* Writes work/folder.jsonl: a row for every image and video below path (told by content; hidden files and folders and
 * symbolic links are left out), in byte order of their relative paths, which are the custom_ids. sha gets names, sizes
 * and times of change. Memory: the names. *others counts files that are no media or whose name is no UTF-8. */
int mull__folder_rows(const char *path, int work, mull__sha *sha, int64_t *others, mull_error *err);

#endif
