/* Training on several ranks: the stages of ZeRO give the same bytes, two ranks what one gives, resuming at the same
 * world size is exact and at another possible, and a rank that dies ends the others. */
#include "tests/engine/trainer_util.h"

#include "tests/engine/tower_case.h"
#include "tests/engine/ranks_util.h"

#include <signal.h>
#include <sys/time.h>
#include <time.h>

enum { CASES = 6, ROWS = 40 };

/* Ids below the special ones of model `own`, labels on two thirds of them. */
static void write_case(const char *path, int k) {
    int64_t ids[ROWS], labels[ROWS], rows = ROWS - 5 * k;
    for (int i = 0; i < rows; i++) {
        ids[i] = (int64_t)(util_splitmix((uint64_t)(100 * k + i)) % 200);
        labels[i] = i % 3 ? ids[i] : -100;
    }
    mull_tensor_info t[] = {
        {.name = "input_ids", .dtype = MULL_I64, .ndim = 1, .shape = {rows}, .count = rows, .data = ids},
        {.name = "labels", .dtype = MULL_I64, .ndim = 1, .shape = {rows}, .count = rows, .data = labels}};
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, t, 2, &err), 0);
}

typedef struct fixture {
    char dir[40];
    mull_config c;
} fixture;

static void fixture_init(fixture *f) {
    char path[80];
    snprintf(f->dir, sizeof f->dir, "/tmp/mull_ranks_XXXXXX");
    util_checkpoint(OWN "/configs.json", "own", f->dir);
    mull_error err = {0};
    assert_int_equal(mull_config_load(f->dir, &f->c, &err), 0);
    for (int k = 0; k < CASES; k++) {
        snprintf(path, sizeof path, "%s/case%d.st", f->dir, k);
        write_case(path, k);
    }
    /* The last one shows pictures: some ranks have media in a step, others none. */
    tower_case_write(&f->c, path);
}

static void fixture_fini(fixture *f) {
    mull_config_fini(&f->c);
    remove_tree(f->dir);
}

/* One run, the same on every rank. Batch b of a step is rank b % world's; a step has batches batches. */
typedef struct plan {
    fixture *f;
    char out[80];
    const char *resume;
    int zero, batches, steps, stop_after, kill_after; /* kill_after: rank 1 kills itself in the step after so many */
    int loses;                                        /* rank 1 has so many batches less */
    bool half, lora, tower;
    bool beside;              /* checkpoints after every step, written beside training */
    int save_every, alarm_us; /* alarm_us: rank 1 dies so long behind kill_after, whatever it does */
    double loss[16];          /* only world 1 can bring them back */
} plan;

typedef struct feed {
    const plan *p;
    mull_grad_case cases[CASES];
    int64_t step;
    int rank, world, at, mine;
} feed;

static int feed_next(void *ctx, mull_batch *out, mull_error *err) {
    feed *s = ctx;
    (void)err;
    if (s->p->kill_after && s->rank == 1 && s->step == s->p->kill_after) {
        if (!s->p->alarm_us) raise(SIGKILL);
        setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = s->p->alarm_us}, NULL);
    }
    *out = s->cases[(s->step * s->p->batches + s->at * s->world + s->rank) % CASES].batch;
    out->last = ++s->at == s->mine;
    if (out->last) s->at = 0, s->step++;
    return MULL_OK;
}
static void feed_release(void *ctx, mull_batch *b) {
    (void)ctx, (void)b;
}
static mull_position feed_position(void *ctx) {
    return (mull_position){.step = ((feed *)ctx)->step};
}

typedef struct told {
    int steps, checkpoints, stop_after;
    double *loss;
} told;
static void on_step(void *ctx, const mull_step *s) {
    told *t = ctx;
    if (t->steps < 16) t->loss[t->steps] = s->loss;
    t->steps++;
}
static void on_checkpoint(void *ctx, int64_t step, const char *path) {
    (void)step, (void)path;
    ((told *)ctx)->checkpoints++;
}
/* Only rank 0 hears of steps, so only it asks: the others must stop with it. */
static bool on_stop(void *ctx) {
    const told *t = ctx;
    return t->stop_after && t->steps >= t->stop_after;
}

static int train(mull_comm *c, void *ctx) {
    plan *p = ctx;
    int rank = mull_comm_rank(c), world = mull_comm_world(c);
    feed s = {.p = p, .rank = rank, .world = world, .mine = p->batches / world};
    if (rank == 1) s.mine -= p->loses;
    mull_error err = {0};
    char path[80];
    for (int k = 0; k < CASES; k++) {
        snprintf(path, sizeof path, "%s/case%d.st", p->f->dir, k);
        RANK_CHECK(mull_grad_case_open(path, &p->f->c, MULL_GRAD_CE, &s.cases[k], &err) == 0);
    }
    mull_recipe r = run_recipe(p->f->dir, MULL_SFT);
    r.bf16 = p->half;
    r.zero_stage = p->zero;
    r.weight_decay = 0.01;
    r.max_grad_norm = 0.5;
    r.loss_norm = MULL_NORM_TOKEN;
    r.freeze_vision = !p->tower;
    r.async_save = p->beside;
    r.save_steps = p->save_every;
    char targets[] = "q_proj,v_proj,down_proj";
    if (p->lora) r.lora_rank = 4, r.lora_alpha = 8, r.lora_targets = targets;
    mull_trainer *t = NULL;
    mull_trainer_opts o = {
        .recipe = &r, .out = p->out, .resume = p->resume, .threads = 1, .steps = p->steps, .comm = c};
    int rc = mull_trainer_create(&o, &t, &err);
    told log = {.stop_after = rank == 0 ? p->stop_after : 0, .loss = p->loss};
    if (!rc) {
        s.step = mull_trainer_state(t)->position.step;
        mull_train_source src = {feed_next, feed_release, feed_position, &s};
        mull_train_hooks hooks = {on_step, on_checkpoint, on_stop, &log};
        rc = mull_trainer_run(t, p->steps, &src, &hooks, &err);
    }
    mull_trainer_destroy(t);
    for (int k = 0; k < CASES; k++) mull_grad_case_fini(&s.cases[k]);
    if (rc && rc != MULL_ECANCELLED) mull_error_print(stderr, &err);
    int saves = p->save_every ? p->steps / p->save_every : 1;
    if (!rc) RANK_CHECK(rank ? !log.steps && !log.checkpoints : log.checkpoints == saves);
    return -rc;
}

static void start(plan *p, int world, int *status) {
    char meet[100];
    snprintf(meet, sizeof meet, "%s.meet", p->out);
    remove_tree(p->out);
    run_ranks(world, meet, train, p, status);
    remove_tree(meet);
}

static void go(plan *p, int world, int want) {
    int status[MULL_WORLD_MAX];
    start(p, world, status);
    for (int r = 0; r < world; r++) assert_int_equal(status[r], want);
}

static void newest(const plan *p, char path[128]) {
    char *s = mull_checkpoint_newest(p->out);
    assert_non_null(s);
    snprintf(path, 128, "%s", s);
    free(s);
}

static plan plan_of(fixture *f, const char *name) {
    plan p = {.f = f, .batches = 2, .steps = 4};
    snprintf(p.out, sizeof p.out, "%s/%s", f->dir, name);
    return p;
}

/* Moments and weights as one rank reads them from a checkpoint of any world size. */
static void load(const fixture *f, const plan *p, mull_params *out) {
    char path[128];
    newest(p, path);
    mull_params_opts o = {.moments = true, .half = p->half};
    mull_train_state s;
    mull_error err = {0};
    (void)f;
    mull_config c = {0};
    assert_int_equal(mull_config_load(path, &c, &err), 0);
    assert_int_equal(mull_params_load(path, &c, &o, out, &err), 0);
    if (mull_checkpoint_load(path, out, &s, &err)) fail_msg("%s: %s", err.where, err.why);
    mull_config_fini(&c);
}

static void same_state(const fixture *f, const plan *a, const plan *b) {
    mull_params p, q;
    load(f, a, &p);
    load(f, b, &q);
    size_t n = (size_t)p.trained * sizeof(float);
    assert_int_equal(p.trained, q.trained);
    assert_memory_equal(p.m, q.m, n);
    assert_memory_equal(p.v, q.v, n);
    assert_memory_equal(p.w, q.w, (size_t)p.count * sizeof(float));
    mull_params_fini(&p);
    mull_params_fini(&q);
}

/* Whatever is kept where: the same weights, moments and masters, by the byte. */
static void stages_are_equal(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int world = 2; world <= 3; world++)
        for (int half = 0; half < 2; half++) {
            char path[2][128];
            plan first = plan_of(&f, "zero0");
            first.half = half;
            first.batches = world;
            go(&first, world, 0);
            newest(&first, path[0]);
            for (int zero = 1; zero < 4; zero++) {
                plan p = plan_of(&f, "zero");
                p.half = half;
                p.zero = zero;
                p.batches = world;
                go(&p, world, 0);
                newest(&p, path[1]);
                same_file(path[0], path[1], "model.safetensors");
                same_file(path[0], path[1], "trainer_state.json");
                same_state(&f, &first, &p);
            }
        }
    fixture_fini(&f);
}

/* Adapters, whose base is frozen; the vision tower, which not every batch uses; unequal numbers of batches. */
static void adapters_tower_and_odd_batches(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int half = 0; half < 2; half++) {
        char path[2][128];
        plan first = plan_of(&f, "a"), p = plan_of(&f, "b");
        first.lora = p.lora = true;
        first.half = p.half = half;
        go(&first, 2, 0);
        newest(&first, path[0]);
        for (p.zero = 1; p.zero < 4; p.zero++) {
            go(&p, 2, 0);
            newest(&p, path[1]);
            same_file(path[0], path[1], "adapter_model.safetensors");
        }
    }
    /* A tower that is trained. */
    char tower[2][128];
    plan first = plan_of(&f, "a"), p = plan_of(&f, "b");
    first.tower = p.tower = true;
    go(&first, 2, 0);
    newest(&first, tower[0]);
    for (p.zero = 1; p.zero < 4; p.zero++) {
        go(&p, 2, 0);
        newest(&p, tower[1]);
        same_file(tower[0], tower[1], "model.safetensors");
    }
    /* Two batches on rank 0, one on rank 1. */
    for (int zero = 0; zero < 4; zero += 2) {
        char path[2][128];
        plan a = plan_of(&f, "a"), b = plan_of(&f, "b");
        a.batches = b.batches = 4;
        a.loses = b.loses = 1;
        a.zero = zero;
        b.zero = zero + 1;
        go(&a, 2, 0);
        go(&b, 2, 0);
        newest(&a, path[0]);
        newest(&b, path[1]);
        same_file(path[0], path[1], "model.safetensors");
    }
    fixture_fini(&f);
}

/* Two ranks with a batch each, or one rank with both: sums in another order only (a rank adds its second batch row by
 * row to what it has of the first). Measured: weights after four steps are 3e-7 of their size apart, since AdamW makes
 * steps of lr out of the smallest gradients; the bound is ten times that. */
static void one_rank_or_two(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    plan one = plan_of(&f, "one"), two = plan_of(&f, "two");
    two.zero = 2;
    go(&one, 1, 0);
    go(&two, 2, 0);
    mull_params p, q;
    load(&f, &one, &p);
    load(&f, &two, &q);
    double d = relative_l2(q.w, p.w, p.count, 1);
    print_message("1 rank against 2, weights after 4 steps: relative L2 %.2g\n", d);
    assert_true(d < 3e-6);
    mull_params_fini(&p);
    mull_params_fini(&q);
    fixture_fini(&f);
}

/* Stopped after two steps by rank 0 and resumed: the same bytes. At another world size: the same run within rounding.
 */
static void resume(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int zero = 1; zero < 4; zero += 2) {
        char at[128], path[2][128];
        plan whole = plan_of(&f, "whole"), half = plan_of(&f, "half"), rest = plan_of(&f, "rest");
        whole.zero = half.zero = rest.zero = zero;
        whole.batches = half.batches = rest.batches = 6;
        whole.half = half.half = rest.half = zero == 3;
        half.stop_after = 2;
        go(&whole, 2, 0);
        go(&half, 2, -MULL_ECANCELLED);
        newest(&half, at);
        assert_true(util_ends(at, "checkpoint-2"));
        rest.resume = at;
        go(&rest, 2, 0);
        newest(&whole, path[0]);
        newest(&rest, path[1]);
        same_file(path[0], path[1], "model.safetensors");
        same_file(path[0], path[1], "optimizer-00000-of-00002.zst");
        same_file(path[0], path[1], "optimizer-00001-of-00002.zst");
        same_file(path[0], path[1], "trainer_state.json");
        for (int world = 1; world <= 3; world += 2) {
            go(&rest, world, 0);
            mull_params p, q;
            load(&f, &whole, &p);
            load(&f, &rest, &q);
            double d = relative_l2(q.w, p.w, p.count, 1);
            print_message("2 ranks' checkpoint continued on %d: relative L2 %.2g\n", world, d);
            assert_true(d < (zero == 3 ? 1e-5 : 1e-6)); /* bf16: a rounding of a weight may fall the other way */
            mull_params_fini(&p);
            mull_params_fini(&q);
        }
        /* A shard that is not there or has another's range is told, with its name. */
        char shard[160], other[160];
        snprintf(shard, sizeof shard, "%s/optimizer-00001-of-00002.zst", at);
        snprintf(other, sizeof other, "%s/optimizer-00000-of-00002.zst", at);
        assert_int_equal(rename(other, shard), 0);
        go(&rest, 1, -MULL_EMISSING);
        assert_int_equal(link(shard, other), 0);
        go(&rest, 1, -MULL_EFORMAT);
    }
    fixture_fini(&f);
}

/* All files of a checkpoint, by its list of sums: the same names and bytes. */
static void same_checkpoint(const char *a, const char *b) {
    char cmd[300];
    same_file(a, b, "SHA256SUMS");
    snprintf(cmd, sizeof cmd, "cd %s && sha256sum --quiet -c SHA256SUMS", a);
    assert_int_equal(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "cd %s && sha256sum --quiet -c SHA256SUMS", b);
    assert_int_equal(system(cmd), 0);
}

/* Written beside training, each checkpoint has the bytes of one that training waited for. */
static void saved_beside(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int i = 0; i < 12; i++) {
        plan now = plan_of(&f, "now"), beside = plan_of(&f, "beside");
        now.zero = beside.zero = i % 4;
        now.half = beside.half = i >= 4;
        now.lora = beside.lora = i >= 8;
        now.save_every = beside.save_every = 1;
        beside.beside = true;
        go(&now, 2, 0);
        go(&beside, 2, 0);
        for (int step = 1; step <= 4; step++) {
            char x[128], y[128];
            snprintf(x, sizeof x, "%s/checkpoint-%d", now.out, step);
            snprintf(y, sizeof y, "%s/checkpoint-%d", beside.out, step);
            same_checkpoint(x, y);
        }
    }
    fixture_fini(&f);
}

/* A rank dies somewhere while checkpoints are written beside training: what is there is whole and that of the
 * undisturbed run, and the run goes on from it to the same end. */
static void dies_while_saving(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    plan whole = plan_of(&f, "whole");
    whole.zero = 2;
    whole.half = whole.beside = true;
    whole.save_every = 1;
    whole.steps = 12;
    go(&whole, 2, 0);
    int found = 0;
    for (int i = 0; i < 8; i++) {
        plan p = whole;
        char at[128], x[128];
        int status[2];
        snprintf(p.out, sizeof p.out, "%s/dies", f.dir);
        p.kill_after = 2 + i;
        p.alarm_us = 200 + 900 * i;
        start(&p, 2, status);
        p.kill_after = p.alarm_us = 0;
        char *s = mull_checkpoint_newest(p.out);
        if (!s) continue;
        found++;
        snprintf(at, sizeof at, "%s", s);
        free(s);
        snprintf(x, sizeof x, "%s%s", whole.out, strrchr(at, '/'));
        same_checkpoint(x, at);
        if (status[0] == 0) continue; /* it was done before */
        assert_int_equal(status[0], -MULL_EIO);
        p.resume = at;
        snprintf(p.out, sizeof p.out, "%s/rest", f.dir);
        p.save_every = 0;
        go(&p, 2, 0);
        snprintf(at, sizeof at, "%s/checkpoint-12", p.out);
        snprintf(x, sizeof x, "%s/checkpoint-12", whole.out);
        same_checkpoint(x, at);
    }
    assert_true(found > 1);
    fixture_fini(&f);
}

/* Rank 1 is killed in its third step: the others end with an error, without a checkpoint of a broken step. */
static void a_rank_dies(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int zero = 0; zero < 4; zero++) {
        plan p = plan_of(&f, "dies");
        int status[3];
        time_t before = time(NULL);
        p.zero = zero;
        p.kill_after = 2;
        p.batches = 3;
        start(&p, 3, status);
        assert_int_equal(status[1], 128 + SIGKILL);
        assert_int_equal(status[0], -MULL_EIO);
        assert_int_equal(status[2], -MULL_EIO);
        assert_true(time(NULL) - before < 60);
        assert_null(mull_checkpoint_newest(p.out));
    }
    fixture_fini(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_are_equal), cmocka_unit_test(adapters_tower_and_odd_batches),
        cmocka_unit_test(one_rank_or_two),  cmocka_unit_test(resume),
        cmocka_unit_test(a_rank_dies),      cmocka_unit_test(saved_beside),
        cmocka_unit_test(dies_while_saving)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
