/* Files and batches in OpenAI's shapes (platform.md, "Annotation at scale"): a file is bytes in the folder --files of
 * the team that sent them, a batch is an annotate job over one. Inside the front door. */
#ifndef MULL_SCHEDULER_FILES_H
#define MULL_SCHEDULER_FILES_H

#include "scheduler/front.h"

enum { MULL_API_ID = 48 };

/* prefix and 24 random hexadecimal digits. */
void mull__random_id(const char *prefix, char out[MULL_API_ID]);

/* files.c. Uploading begins with the head of the request: who may not upload sends no byte. */
void mull__upload_begin(mull_front *f, mull_req *req);
void mull__upload(mull_front *f, mull_req *req);
void mull__upload_gone(mull_req *req);
void mull__file_content(mull_front *f, mull_req *req);
void mull__file_delete(mull_front *f, mull_req *req);
void mull__file_list(mull_front *f, mull_req *req);

/* batches.c */
void mull__batch_create(mull_front *f, mull_req *req);
void mull__batch_list(mull_front *f, mull_req *req);
void mull__batch_cancel(mull_front *f, mull_req *req);
/* Cancels what is past its window; at most once a minute, however often it is called. */
void mull__batches_expire(mull_front *f);

#endif
