/* From what a message names (a path, a file:// or a data: URL, with its own limits) to loaded media. */
#ifndef MULL_ENGINE_INFER_MEDIA_REF_H
#define MULL_ENGINE_INFER_MEDIA_REF_H

#include "engine/media/media.h"
#include "engine/text/chat.h"

/* limits: the defaults, over which ref->part's min_pixels, max_pixels, fps, nframes go. The caller frees *out with
 * mull_media_fini. http(s) is MULL_EUNSUPPORTED: the engine has no network. */
int mull_media_ref_load(const mull_media_ref *ref, const mull_media_limits *limits, mull_media *out, mull_error *err);
/* The path that a file:// URL or a plain path names, in malloc'ed memory; NULL on no memory. */
char *mull_media_ref_path(const char *url);
/* MULL_EUNSUPPORTED for http(s) and any other URL that is neither data: nor file://, else 0. */
int mull_media_ref_remote(const char *url, mull_error *err);
/* limits changed by the members min_pixels, max_pixels, fps, nframes of a JSON object (NULL: none of them). */
int mull_media_limits_override(const json_t *part, const char *where, mull_media_limits *limits, mull_error *err);

#endif
