/* Recipes: any bytes are refused or give a recipe whose weights sum to 1. */
#include "engine/data/recipe.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mull_recipe r;
    mull_recipe_report report;
    mull_error err = {0};
    static const char *const sets[] = {"seed=7", "train_dataset_args.num_latent_tokens=3"};
    int rc = mull_recipe_parse((const char *)data, size, "fuzz", sets, 2, &r, &report, &err);
    if (!rc) {
        double sum = 0;
        for (int s = 0; s < MULL_SET_COUNT; s++) sum += r.weight[s];
        if (!(fabs(sum - 1) < 1e-9) || report.errors || r.seed != 7) abort();
        json_decref(mull_recipe_json(&r));
        mull_recipe_fini(&r);
    } else if (!report.errors && rc != MULL_ENOMEM) {
        abort(); /* refused without saying why */
    }
    mull_recipe_report_fini(&report);
    return 0;
}
