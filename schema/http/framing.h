/* Where one request ends and the next begins. Behind a proxy that reads it differently, a request with two answers to
 * that question carries a second one inside (request smuggling), so those are refused (RFC 9112, sections 5 and 6). */
#ifndef MULL_SCHEMA_HTTP_FRAMING_H
#define MULL_SCHEMA_HTTP_FRAMING_H

#include <microhttpd.h>

/* NULL, or why the headers of this request are refused; its connection must be closed then. */
const char *mull__http_framing(struct MHD_Connection *conn);

#endif
