/* CUDA attention and sampling against the CPU's; see test_cuda_ops.c for how and where it runs.
 *
 * Bounds of attention: outputs are averages of values in (-1, 1). float32: 4e-6, sums of up to 700 keys in different
 * orders. bf16: weights are rounded to 8 bits before they meet the values and the output is rounded again, 2^-8 each of
 * at most 1, and a third of that is the noise of rounding both ways: 6e-3 + 2^-8 relative. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_util.h"

#include "engine/infer/sampler.h"

static const double ATTN[] = {4e-6, 6e-3}, REL[] = {0, 0.00390625};

/* Sequences of given lengths of which the first pos0 tokens are in the cache already, stored by an earlier batch. */
static void paged(mull_dtype t, int heads, int kv_heads, int hd, const mull_cuda_seq *shape, int nseq, bool simple) {
    int64_t kvw = (int64_t)kv_heads * hd, ld = heads * hd + 2 * kvw, rows = 0, npages = 1;
    mull_cuda_seq seqs[8];
    mull_attn_seq cpu[8];
    int32_t pages[256], cpu_pages[256];
    int32_t used = 0;
    for (int s = 0; s < nseq; s++) {
        seqs[s] = shape[s];
        seqs[s].row0 = (int32_t)rows;
        seqs[s].page0 = used;
        rows += shape[s].rows;
        used += (shape[s].pos0 + shape[s].rows + MULL_CUDA_PAGE - 1) / MULL_CUDA_PAGE;
    }
    npages = used + 3;
    for (int32_t p = 0; p < used; p++) pages[p] = cpu_pages[p] = (int32_t)((p * 7 + 2) % npages); /* anywhere */
    for (int32_t p = 0, ok = npages % 7 == 0; ok && p < used; p++) pages[p] = cpu_pages[p] = p + 1;
    size_t page = (size_t)(2 * kvw * MULL_CUDA_PAGE);
    mull_cuda_kv kv = {.page_stride = (int64_t)page, .kv_heads = kv_heads, .hd = hd};
    kv.k = gpu_floats(NULL, page * (size_t)npages, t);
    kv.v = (char *)kv.k + page / 2 * mull_dtype_size(t);
    float *cpu_kv = calloc(page * (size_t)npages + 32, sizeof *cpu_kv);
    mull_kv_view view = {cpu_kv, cpu_kv + page / 2, (int64_t)page, MULL_CUDA_PAGE, kv_heads, hd};
    void *dpages = gpu_bytes(pages, (size_t)used * sizeof *pages);
    float *out = malloc((size_t)(rows * heads * hd) * sizeof *out),
          *want = malloc((size_t)(rows * heads * hd) * sizeof *want);
    for (int step = 0; step < 2; step++) { /* what is cached already, then the batch */
        mull_cuda_seq now[8];
        int n = 0;
        int64_t m = 0;
        for (int s = 0; s < nseq; s++) {
            int32_t r = step ? seqs[s].rows : seqs[s].pos0;
            if (!r) continue;
            cpu[n] = (mull_attn_seq){
                .row0 = m, .rows = r, .pos0 = step ? seqs[s].pos0 : 0, .pages = cpu_pages + seqs[s].page0};
            now[n++] = (mull_cuda_seq){(int32_t)m, r, step ? seqs[s].pos0 : 0, seqs[s].page0};
            m += r;
        }
        if (!m) continue;
        float *qkv = gpu_random((size_t)(m * ld), 20 + (uint64_t)step, 1, t),
              *angles = gpu_random((size_t)(m * hd), 22, 1, MULL_F32);
        float *cs = angles, *sn = angles + m * hd / 2, *turned = malloc((size_t)(m * ld) * sizeof *turned);
        void *dq = gpu_floats(qkv, (size_t)(m * ld), t), *dc = gpu_floats(cs, (size_t)(m * hd / 2), MULL_F32);
        void *ds = gpu_floats(sn, (size_t)(m * hd / 2), MULL_F32),
             *dout = gpu_floats(NULL, (size_t)(m * heads * hd), t);
        gpu_plan p = gpu_make_plan(now, n, heads / kv_heads, true, kv_heads, hd);
        mull_cuda_rope_store(gpu, dq, m, heads, &kv, p.seqs, n, dpages, dc, ds, t);
        /* The CPU's cache gets keys rounded as the device rounds them. */
        mull_rope(NULL, qkv, m, ld, heads + kv_heads, hd, cs, sn);
        for (int64_t i = 0; i < m * ld; i++)
            if (t == MULL_BF16) qkv[i] = mull_bf16_to_f32(mull_f32_to_bf16(qkv[i]));
        gpu_read(dq, (size_t)(m * ld), t, turned);
        for (int64_t r = 0; r < m; r++)
            gpu_close(turned + r * ld, qkv + r * ld, (size_t)(heads * hd), 1e-6, 2 * REL[t == MULL_BF16],
                      "turned queries");
        mull_kv_store(NULL, &view, cpu, n, qkv + heads * hd, qkv + heads * hd + kvw, ld);
        if (step) {
            mull_cuda_attention a = {.t = t,
                                     .q = dq,
                                     .ldq = ld,
                                     .kv = &kv,
                                     .pages = dpages,
                                     .heads = heads,
                                     .hd = hd,
                                     .causal = true,
                                     .scale = 1.0f / sqrtf((float)hd),
                                     .seqs = p.seqs,
                                     .work = p.work,
                                     .joins = p.joins,
                                     .plan = p.plan,
                                     .out = dout,
                                     .ldo = heads * hd,
                                     .simple = simple};
            mull_cuda_attend(gpu, &a);
            gpu_read(dout, (size_t)(m * heads * hd), t, out);
            mull_attention_paged(NULL, &view, cpu, n, qkv, ld, heads, a.scale, want, heads * hd);
            char what[80];
            snprintf(what, sizeof what, "paged attention %s, %d/%d heads of %d%s", mull_dtype_name(t), heads, kv_heads,
                     hd, simple ? ", simple" : "");
            gpu_close(out, want, (size_t)(m * heads * hd), ATTN[t == MULL_BF16], REL[t == MULL_BF16], what);
        }
        free(qkv);
        free(angles);
        free(turned);
    }
    gpu_done();
    free(cpu_kv);
    free(out);
    free(want);
}

static void paged_attention(void **state) {
    (void)state;
    /* rows, pos0: prompts, pieces of prompts, decoding with short and split keys */
    const mull_cuda_seq mixed[] = {{0, 70, 0, 0}, {0, 1, 33, 0}, {0, 1, 600, 0}, {0, 19, 45, 0}, {0, 3, 511, 0}};
    const mull_cuda_seq one[] = {{0, 1, 0, 0}}, edge[] = {{0, 64, 64, 0}, {0, 1, 255, 0}, {0, 1, 256, 0}};
    paged(MULL_F32, 3, 1, 16, mixed, 5, false);
    paged(MULL_F32, 4, 2, 24, edge, 3, false);
    paged(MULL_BF16, 4, 2, 16, mixed, 5, false); /* a head size without tensor cores */
    paged(MULL_F32, 2, 1, 256, one, 1, false);
    paged(MULL_BF16, 7, 1, 128, mixed, 5, false);
    paged(MULL_BF16, 4, 2, 128, edge, 3, false);
    paged(MULL_BF16, 8, 1, 64, mixed, 5, false);
    paged(MULL_BF16, 3, 3, 80, one, 1, false);
    paged(MULL_BF16, 4, 1, 128, mixed, 5, true);
}

static void varlen(mull_dtype t, int heads, int hd, const int32_t *cu, int n, bool simple) {
    mull_cuda_seq seqs[8];
    for (int s = 0; s < n; s++) seqs[s] = (mull_cuda_seq){cu[s], cu[s + 1] - cu[s], 0, 0};
    int64_t m = cu[n], e = (int64_t)heads * hd, ld = 3 * e;
    float *qkv = gpu_random((size_t)(m * ld), 30, 2, t), *out = malloc((size_t)(m * e) * sizeof *out),
          *want = malloc((size_t)(m * e) * sizeof *want);
    char *dq = gpu_floats(qkv, (size_t)(m * ld), t);
    void *dout = gpu_floats(NULL, (size_t)(m * e), t);
    size_t size = mull_dtype_size(t);
    gpu_plan p = gpu_make_plan(seqs, n, 1, false, heads, hd);
    mull_cuda_attention a = {.t = t,
                             .q = dq,
                             .ldq = ld,
                             .k = dq + (size_t)e * size,
                             .v = dq + 2 * (size_t)e * size,
                             .ldkv = ld,
                             .heads = heads,
                             .hd = hd,
                             .scale = 1.0f / sqrtf((float)hd),
                             .seqs = p.seqs,
                             .work = p.work,
                             .joins = p.joins,
                             .plan = p.plan,
                             .out = dout,
                             .ldo = e,
                             .simple = simple};
    mull_cuda_attend(gpu, &a);
    gpu_read(dout, (size_t)(m * e), t, out);
    mull_attention_varlen(NULL, qkv, qkv + e, qkv + 2 * e, ld, cu, n, heads, hd, a.scale, want, e);
    char what[80];
    snprintf(what, sizeof what, "attention in segments, %s, %d heads of %d", mull_dtype_name(t), heads, hd);
    gpu_close(out, want, (size_t)(m * e), 2 * ATTN[t == MULL_BF16], REL[t == MULL_BF16], what);
    gpu_done();
    free(qkv);
    free(out);
    free(want);
}

static void segments(void **state) {
    (void)state;
    const int32_t windows[] = {0, 64, 96, 97, 129, 193}, full[] = {0, 300};
    varlen(MULL_F32, 2, 16, windows, 5, false);
    varlen(MULL_F32, 1, 80, full, 1, false);
    varlen(MULL_BF16, 2, 80, windows, 5, false);
    varlen(MULL_BF16, 2, 80, full, 1, false);
    varlen(MULL_BF16, 1, 64, full, 1, false);
    varlen(MULL_BF16, 2, 80, windows, 5, true);
}

/* Every pair and key exactly once, whatever the lengths. */
static void plans(void **state) {
    (void)state;
    for (int group = 1; group <= 8; group += 3)
        for (int rows = 1; rows <= 90; rows += 11)
            for (int pos0 = 0; pos0 <= 1100; pos0 += 137) {
                mull_cuda_seq s[2] = {{0, rows, pos0, 0}, {rows, 1, 5, 0}};
                mull_cuda_plan p, q;
                mull_cuda_work w[64] = {0};
                mull_cuda_join j[4];
                mull_cuda_plan_attention(s, 2, group, true, &p, NULL, NULL);
                assert_true(p.wide + p.few <= 64 && p.joins <= 4);
                mull_cuda_plan_attention(s, 2, group, true, &q, w, j);
                assert_memory_equal(&p, &q, sizeof p);
                bool few = rows * group <= MULL_CUDA_TILE_FEW;
                int pairs = 0, keys = 0, parts = 0;
                for (int i = 0; i < p.wide + p.few; i++) {
                    if (w[i].seq) continue;
                    if (few) {
                        assert_int_equal(w[i].key0, keys);
                        keys = w[i].key1;
                        if (w[i].part >= 0) assert_int_equal(w[i].part, parts++);
                    } else {
                        assert_int_equal(w[i].pair0, pairs);
                        pairs += MULL_CUDA_TILE;
                        int last = (pairs < rows * group ? pairs : rows * group) - 1;
                        assert_int_equal(w[i].key1, pos0 + last / group + 1);
                    }
                }
                if (few)
                    assert_int_equal(keys, pos0 + rows);
                else
                    assert_true(pairs >= rows * group && pairs - MULL_CUDA_TILE < rows * group);
                assert_int_equal(parts, p.parts);
                if (p.joins) assert_true(j[0].part0 == 0 && j[0].parts == p.parts && p.joins == 1);
            }
}

/* The same tokens as the CPU's sampler for the same seeds. */
static void sampling(void **state) {
    (void)state;
    enum { V = 2500, N = 24, WORDS = (V + 31) / 32 };
    float *logits = gpu_random(3 * V, 40, 6, MULL_F32), *row = malloc(V * sizeof *row);
    for (int i = 0; i < V; i++) logits[V + i] = (float)(int)(logits[V + i]); /* many equal ones */
    for (int i = 0; i < V; i++) logits[2 * V + i] = i == 1234 ? NAN : -INFINITY;
    mull_cuda_sampling how[N];
    mull_sampler sampler;
    mull_error err = {0};
    mull_idset banned, seen;
    gpu_check(mull_sampler_init(&sampler, V, &err), &err);
    assert_int_equal(mull_idset_init(&banned, V) | mull_idset_init(&seen, V), 0);
    for (int i = 0; i < V; i += 17) mull_idset_add(&banned, i);
    for (int i = 3; i < V; i += 5) mull_idset_add(&seen, i);
    uint32_t *slots = malloc(2 * WORDS * 4), bans[WORDS];
    memcpy(bans, banned.bits, sizeof bans);
    memcpy(slots, seen.bits, WORDS * 4);
    memcpy(slots + WORDS, seen.bits, WORDS * 4);
    const double temperatures[] = {0, 0.7, 1, 1.5}, ps[] = {1, 0.9, 0.3};
    const int ks[] = {0, 1, 50, 2499};
    gpu_check(mull_cuda_reserve(gpu, MULL_CUDA_SAMPLE, (size_t)N * V * sizeof(float), &err), &err);
    void *dl = gpu_floats(logits, 3 * V, MULL_F32), *db = gpu_bytes(bans, sizeof bans);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < N; i++)
            how[i] = (mull_cuda_sampling){.temperature = temperatures[(i + round) % 4],
                                          .top_p = ps[i % 3],
                                          .top_k = ks[(i / 3 + round) % 4],
                                          .penalty = i % 2 ? 1.3 : 1,
                                          .row = i % 7 == 6 ? 1 : 0,
                                          .slot = i == 1   ? 0
                                                  : i == 5 ? 1
                                                           : -1,
                                          .seed = 1000 + (uint64_t)round,
                                          .index = (uint64_t)i * 7};
        void *dh = gpu_bytes(how, sizeof how), *ds = gpu_bytes(slots, 2 * WORDS * 4), *di = gpu_bytes(NULL, N * 4);
        void *dp = gpu_floats(NULL, N, MULL_F32);
        int32_t ids[N];
        float logprob[N];
        uint32_t after[2 * WORDS];
        mull_cuda_sample(gpu, dl, V, dh, N, round % 2 ? db : NULL, ds, WORDS, di, dp);
        gpu_check(mull_cuda_get(gpu, ids, di, sizeof ids, &err), &err);
        gpu_check(mull_cuda_get(gpu, after, ds, sizeof after, &err), &err);
        gpu_read(dp, N, MULL_F32, logprob);
        for (int i = 0; i < N; i++) {
            mull_sampling h = {.temperature = how[i].temperature,
                               .top_p = how[i].top_p,
                               .top_k = how[i].top_k,
                               .repetition_penalty = how[i].slot >= 0 ? how[i].penalty : 1,
                               .seed = how[i].seed};
            const float *x = logits + how[i].row * V;
            int32_t want;
            memcpy(row, x, V * sizeof *row);
            gpu_check(mull_sample(&sampler, row, &h, round % 2 ? &banned : NULL, &seen, how[i].index, &want, &err),
                      &err);
            if (ids[i] != want)
                fail_msg("round %d, row %d: token %d, not %d (t %g k %d p %g)", round, i, ids[i], want, h.temperature,
                         h.top_k, h.top_p);
            assert_true(fabs((double)x[want] - mull_logsumexp(x, V) - (double)logprob[i]) <= 2e-6);
            if (how[i].slot >= 0) assert_true(after[how[i].slot * WORDS + want / 32] >> (want % 32) & 1);
        }
        gpu_done();
        dl = gpu_floats(logits, 3 * V, MULL_F32);
        db = gpu_bytes(bans, sizeof bans);
    }
    how[0].row = 2; /* nothing finite */
    void *di = gpu_bytes(NULL, 4);
    int32_t id;
    mull_cuda_sample(gpu, dl, V, gpu_bytes(how, sizeof *how), 1, NULL, NULL, 0, di, NULL);
    gpu_check(mull_cuda_get(gpu, &id, di, 4, &err), &err);
    assert_int_equal(id, -1);
    gpu_done();
    mull_sampler_fini(&sampler);
    mull_idset_fini(&banned);
    mull_idset_fini(&seen);
    free(slots);
    free(logits);
    free(row);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans), cmocka_unit_test(paged_attention),
                                       cmocka_unit_test(segments), cmocka_unit_test(sampling)};
    return gpu_main(tests, sizeof tests / sizeof *tests, "CUDA attention and sampling were");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
