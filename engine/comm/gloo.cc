/* The ranks' transport over Gloo; see transport.h and comm.h. Ranks meet (each leaves its addresses in a folder, or
 * over several hosts with rank 0) and then hold one TCP connection to each other, on one host over the loopback
 * interface. Gloo throws; nothing that it throws gets out of here.
 *
 * A receiver answers each message with an empty one, which the sender waits for before it looks at its send: when a
 * rank dies, Gloo tells every receive that waits, but a send that its own thread is just about to write is forgotten
 * and waits for the whole timeout (seen in one of eight deaths under load). */
#include "engine/comm/transport.h"

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct mull_transport {
    int rank, world;
    std::chrono::milliseconds timeout;
    std::shared_ptr<gloo::rendezvous::Context> context;
    uint64_t slot; /* of the next exchange; the same on all ranks, so a message cannot be taken for another's */
    std::unique_ptr<gloo::transport::UnboundBuffer> answers; /* empty; their sends are not waited for */
};

namespace {
const uint64_t ANSWER = uint64_t(1) << 61, CHANNEL = uint64_t(1) << 62; /* never reached by counting from 0 */
const char WHAT[] = "lost another rank";
const char TODO[] = "the first rank that failed has said why; run it again, it goes on from the last checkpoint";

int lost(mull_error *err, const char *where, const char *why) {
    return mull_fail(err, MULL_EIO, WHAT, where, TODO, "%s", why);
}

/* Gloo's meeting place, kept by rank 0. */
class MeetStore : public gloo::rendezvous::Store {
  public:
    MeetStore(mull_meet *meet, std::chrono::milliseconds timeout) : meet_(meet), timeout_(timeout) {}

    void set(const std::string &key, const std::vector<char> &data) override {
        mull_error err;
        if (mull__meet_put(meet_, key.c_str(), data.data(), data.size(), &err)) throw std::runtime_error(err.why);
    }
    std::vector<char> get(const std::string &key) override { return fetch(key, timeout_); }
    void wait(const std::vector<std::string> &keys) override { wait(keys, timeout_); }
    void wait(const std::vector<std::string> &keys, const std::chrono::milliseconds &timeout) override {
        for (const auto &key : keys) fetch(key, timeout);
    }

  private:
    std::vector<char> fetch(const std::string &key, std::chrono::milliseconds timeout) {
        mull_error err;
        void *word;
        size_t n;
        if (mull__meet_get(meet_, key.c_str(), (int)timeout.count(), &word, &n, &err))
            throw std::runtime_error(err.why);
        std::vector<char> copy((char *)word, (char *)word + n);
        std::free(word);
        return copy;
    }

    mull_meet *meet_;
    std::chrono::milliseconds timeout_;
};
} // namespace

extern "C" bool mull__transport_available(void) {
    return true;
}

extern "C" int mull__transport_open(const mull_transport_place *at, mull_transport **out, mull_error *err) {
    *out = nullptr;
    try {
        auto t = std::make_unique<mull_transport>();
        t->rank = at->rank;
        t->world = at->world;
        t->timeout = std::chrono::seconds(at->timeout_s);
        t->slot = 0;
        auto device = gloo::transport::tcp::CreateDevice(at->meet ? at->address : "127.0.0.1");
        t->context = std::make_shared<gloo::rendezvous::Context>(at->rank, at->world);
        t->context->setTimeout(t->timeout);
        if (at->meet) {
            MeetStore store(at->meet, t->timeout);
            t->context->connectFullMesh(store, device);
        } else {
            gloo::rendezvous::FileStore store(at->dir);
            t->context->connectFullMesh(store, device);
        }
        t->answers = t->context->createUnboundBuffer(nullptr, 0);
        *out = t.release();
        return MULL_OK;
    } catch (const std::exception &e) {
        return mull_fail(err, MULL_EIO, "cannot reach the other ranks", at->meet ? at->address : at->dir,
                         at->meet ? "check that the hosts reach each other at the addresses that their workers give "
                                    "(mull-worker --address)"
                                  : "see what they say; ranks meet through this folder and talk over 127.0.0.1",
                         "%s", e.what());
    }
}

extern "C" int mull__transport_channel(const mull_transport *t, mull_transport **out, mull_error *err) {
    *out = nullptr;
    try {
        auto c = std::make_unique<mull_transport>();
        c->rank = t->rank;
        c->world = t->world;
        c->timeout = t->timeout;
        c->context = t->context;
        c->slot = CHANNEL;
        c->answers = t->context->createUnboundBuffer(nullptr, 0);
        *out = c.release();
        return MULL_OK;
    } catch (const std::exception &e) {
        return mull_fail(err, MULL_ENOMEM, WHAT, "channel", nullptr, "%s", e.what());
    }
}

extern "C" void mull__transport_close(mull_transport *t) {
    try {
        delete t;
    } catch (const std::exception &) {
    }
}

extern "C" int mull__transport_exchange(mull_transport *t, const mull_exchange *x, mull_error *err) {
    try {
        auto in = t->context->createUnboundBuffer(x->send, x->send_bytes);
        auto to = t->context->createUnboundBuffer(x->recv, x->recv_bytes);
        auto answered = t->context->createUnboundBuffer(nullptr, 0);
        uint64_t slot = t->slot++;
        int sends = 0, receives = 0;
        /* Each rank begins with its right neighbour: not all of them with rank 0. */
        for (int k = 1; k < t->world; k++) {
            int next = (t->rank + k) % t->world, before = (t->rank - k + t->world) % t->world;
            if (x->recv_len[before]) {
                to->recv(before, slot, x->recv_at[before], x->recv_len[before]);
                receives++;
            }
            if (x->send_len[next]) {
                answered->recv(next, slot | ANSWER);
                in->send(next, slot, x->send_at[next], x->send_len[next]);
                sends++;
            }
        }
        for (; receives; receives--)
            if (!to->waitRecv(t->timeout)) return lost(err, "receiving", "the call was aborted");
        for (int r = 0; r < t->world; r++)
            if (r != t->rank && x->recv_len[r]) t->answers->send(r, slot | ANSWER);
        for (int k = 0; k < sends; k++)
            if (!answered->waitRecv(t->timeout)) return lost(err, "sending", "the call was aborted");
        for (int k = 0; k < sends; k++)
            if (!in->waitSend(t->timeout)) return lost(err, "sending", "the call was aborted");
        return MULL_OK;
    } catch (const std::exception &e) {
        return lost(err, "exchange", e.what());
    }
}
