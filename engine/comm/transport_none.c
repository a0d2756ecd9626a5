/* transport.h in a build without Gloo: one rank works, more say what is missing. */
#include "engine/comm/transport.h"

#if !MULL_HAVE_GLOO
bool mull__transport_available(void) {
    return false;
}

int mull__transport_open(const mull_transport_place *at, mull_transport **out, mull_error *err) {
    *out = NULL;
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot run several ranks", at->dir ? at->dir : at->address,
                     "run ops/deps (libgloo-dev) and build again, or use one rank",
                     "this build has no library for collectives between %d ranks", at->world);
}

int mull__transport_channel(const mull_transport *t, mull_transport **out, mull_error *err) {
    (void)t;
    *out = NULL;
    return mull_fail(err, MULL_EINTERNAL, "cannot run several ranks", "", NULL, "there is no transport");
}

void mull__transport_close(mull_transport *t) {
    (void)t;
}

int mull__transport_exchange(mull_transport *t, const mull_exchange *x, mull_error *err) {
    (void)t, (void)x;
    return mull_fail(err, MULL_EINTERNAL, "cannot run several ranks", "", NULL, "there is no transport");
}
#endif
