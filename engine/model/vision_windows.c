/* The window permutation; see vision_windows.h. Windows tile the units from the top left; those at the right and lower
 * edge are smaller. The reference pads the grid to whole windows (by a full window even when nothing is missing) and
 * then drops the padding, which leaves exactly this tiling. */
#include "engine/model/vision_windows.h"

#include <stdlib.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int mull_windows_init(mull_windows *o, const mull_vision_config *v, int64_t h, int64_t w, mull_error *err) {
    int64_t uh = h / v->merge, uw = w / v->merge, side = v->window / v->merge / v->patch;
    if (side < 1) side = 1;
    int64_t rows = (uh + side - 1) / side, cols = (uw + side - 1) / side;
    *o = (mull_windows){.units = uh * uw, .n = (int)(rows * cols)};
    o->order = malloc((size_t)o->units * sizeof *o->order);
    o->cu = malloc(((size_t)o->n + 1) * sizeof *o->cu);
    if (!o->order || !o->cu) {
        mull_windows_fini(o);
        return mull_fail(err, MULL_ENOMEM, "cannot order the vision windows", "", "", "out of memory for %lld units",
                         (long long)(uh * uw));
    }
    int64_t k = 0;
    int window = 0;
    o->cu[0] = 0;
    for (int64_t wy = 0; wy < uh; wy += side)
        for (int64_t wx = 0; wx < uw; wx += side) {
            for (int64_t y = wy; y < least(wy + side, uh); y++)
                for (int64_t x = wx; x < least(wx + side, uw); x++) o->order[k++] = (int32_t)(y * uw + x);
            o->cu[++window] = (int32_t)(k * v->merge * v->merge);
        }
    return MULL_OK;
}

void mull_windows_fini(mull_windows *o) {
    free(o->order);
    free(o->cu);
    *o = (mull_windows){0};
}
