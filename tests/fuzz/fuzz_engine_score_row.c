/* Any bytes as a row of an evaluation ({"doc"} JSON, a NUL, the reply; the first byte chooses the task): scored or
 * refused with a reason, and its prompts written. */
#include "engine/eval/prompt.h"
#include "engine/eval/task.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void score(const mull_task *t, const json_t *doc, const char *reply, size_t n) {
    for (int compat = 0; compat < 2; compat++) {
        mull_scored s;
        mull_error err = {0};
        if (mull_task_score(t, doc, reply, n, (mull_compat)compat, MULL_SCORE_RAW, &s, &err)) {
            if (!err.why[0]) abort();
            continue;
        }
        if (!(s.score >= 0 && s.score <= 1) || !s.clean || !s.raw || !s.cleaned) abort();
        mull_scored_fini(&s);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const mull_task *t = mull_task_at(data[0] % mull_task_count());
    const char *s = (const char *)data + 1, *cut = memchr(s, 0, size - 1);
    size_t n = cut ? (size_t)(cut - s) : size - 1;
    json_t *doc = json_loadb(s, n, 0, NULL);
    if (json_is_object(doc)) {
        score(t, doc, cut ? cut + 1 : "", cut ? size - n - 2 : 0);
        for (int style = MULL_STYLE_LATENTS; style <= MULL_STYLE_COT; style++) {
            mull_prompt_opts o = {(mull_prompt_style)style, true};
            mull_buf text = {0};
            mull_error err = {0};
            mull_task_prompt(t, doc, &o, &text, &err);
            mull_buf_fini(&text);
        }
    }
    json_decref(doc);
    return 0;
}
