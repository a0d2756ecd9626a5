/* Job specs from strangers, as YAML (first byte even) and JSON: never a crash, and either a spec or at least one error.
 */
#include "schema/jobspec.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    static mull_diags diags;
    json_t *spec =
        mull_jobspec_parse((const char *)data + 1, size - 1, data[0] & 1 ? MULL_SPEC_JSON : MULL_SPEC_YAML, &diags);
    if (!spec && diags.n == 0) abort();
    if (spec) { /* what was accepted stays acceptable: it is checked again when it comes as an object */
        mull_diags again;
        json_t *copy = json_deep_copy(spec);
        json_object_del(copy, "time_limit_s");
        json_object_del(copy, "begin_ms");
        json_t *second = mull_jobspec_check(copy, &again);
        if (!second) abort();
        json_decref(second);
        json_decref(copy);
    }
    json_decref(mull_diags_json(&diags));
    json_decref(spec);
    return 0;
}
