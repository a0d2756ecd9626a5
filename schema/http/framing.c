/* See framing.h. */
#include "schema/http/framing.h"

#include <string.h>
#include <strings.h>

typedef struct seen {
    int lengths, codings, hosts;
    const char *why;
} seen;

/* RFC 9110's tchar: what a name may consist of. A space or a tab in it is a fold or an attempt to hide the name. */
static int is_token(const char *s) {
    size_t n = strspn(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    return n > 0 && s[n] == 0;
}

static enum MHD_Result look(void *cls, enum MHD_ValueKind kind, const char *key, const char *value) {
    seen *s = cls;
    (void)kind;
    if (!value) value = "";
    if (!is_token(key)) s->why = "the name of a header is none";
    if (strcasecmp(key, "Content-Length") == 0) {
        size_t digits = strspn(value, "0123456789");
        s->lengths++;
        if (digits == 0 || digits > 18 || value[digits]) s->why = "Content-Length is no number";
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        s->codings++;
        if (strcasecmp(value, "chunked") != 0) s->why = "Transfer-Encoding can only be chunked";
    } else if (strcasecmp(key, "Host") == 0) {
        s->hosts++;
    }
    return MHD_YES;
}

const char *mull__http_framing(struct MHD_Connection *conn) {
    seen s = {0};
    MHD_get_connection_values(conn, MHD_HEADER_KIND, look, &s);
    if (s.lengths > 1) s.why = "there is more than one Content-Length";
    if (s.codings > 1) s.why = "there is more than one Transfer-Encoding";
    if (s.lengths && s.codings) s.why = "both Content-Length and Transfer-Encoding are given";
    if (s.hosts > 1) s.why = "there is more than one Host";
    return s.why;
}
