/* Messages: JSON lines {"messages": [...], "solution"?, "problem_type"?} for people's own data. Texts stand as they
 * are; media are paths below the file's folder, file:// paths are not needed. */
#include "engine/data/dataset_internal.h"

#include "engine/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int mull__messages_open(mull_dataset *d, mull_error *err) {
    const char *location = d->r->messages_location;
    bool folder;
    int rc = mull__set_root(d, location, &folder, err);
    if (!rc && folder)
        rc = mull_fail(err, MULL_EARG, "cannot open the dataset", location, "give the .jsonl file itself",
                       "messages_location is a folder");
    if (!rc) rc = mull_json_rows_open(location, &d->json, err);
    if (!rc) d->rows = mull_json_rows_count(d->json);
    return rc;
}

int mull__messages_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err) {
    json_t *row;
    mull_media_ref *refs = NULL;
    size_t n = 0;
    (void)key;
    int rc = mull_json_rows_get(d->json, i, &row, err);
    if (rc) return rc;
    json_t *messages = json_object_get(row, "messages");
    const char *type = json_string_value(json_object_get(row, "problem_type")),
               *solution = json_string_value(json_object_get(row, "solution"));
    mull_error why = {0};
    rc = mull_chat_media(messages, &refs, &n, &why);
    if (rc) rc = mull__bad_row(d, e, err, "%s: %s", why.where, why.why);
    for (size_t k = 0; !rc && k < n; k++) {
        if (!strncasecmp(refs[k].url, "data:", 5) || !strncasecmp(refs[k].url, "http://", 7) ||
            !strncasecmp(refs[k].url, "https://", 8)) {
            rc = mull__bad_row(d, e, err, "medium %zu: give a path of this machine", k + 1);
            break;
        }
        const char *path = strncasecmp(refs[k].url, "file://", 7) ? refs[k].url : refs[k].url + 7;
        mull_source *s = mull__add_media(&e->media, &e->nmedia);
        if (s) {
            s->kind = refs[k].video ? MULL_MEDIA_VIDEO : MULL_MEDIA_IMAGE;
            s->path = mull__resolve(d->root, path);
        }
        if (!s || !s->path) rc = mull__no_memory(d, err);
    }
    if (!rc) {
        e->problem_type = mull__problem_type(type ? type : "free-form");
        e->solution = strdup(solution ? solution : "");
        e->messages = json_incref(messages);
        if (!e->solution) rc = mull__no_memory(d, err);
        if (!rc && !e->problem_type) rc = mull__bad_row(d, e, err, "problem_type '%.40s' is not known", type);
    }
    free(refs);
    json_decref(row);
    return rc;
}
