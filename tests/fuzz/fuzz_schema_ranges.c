/* Indexes of an array or a schedule. What is taken keeps its promises: ascending starts, a total that fits, numbers in
 * their bounds. */
#include "schema/array_range.h"
#include "schema/cron.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1), why[256];
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = 0;
    json_t *a = mull_array_parse(text, why, sizeof why), *c = mull_cron_parse(text, why, sizeof why);
    if (a) {
        json_t *starts = json_object_get(a, "starts");
        json_int_t total = json_integer_value(json_object_get(a, "total")), last = -1;
        for (size_t i = 0; i < json_array_size(starts); i++) {
            json_int_t at = json_integer_value(json_array_get(starts, i));
            if (at <= last || at >= total) abort();
            last = at;
        }
        if (total < 1 || total > MULL_ARRAY_TASKS_MAX) abort();
    }
    static const char *const keys[] = {"minute", "hour", "dom", "month", "dow"};
    static const int most[] = {59, 23, 31, 12, 6};
    for (int k = 0; c && k < 5; k++) {
        json_t *list = json_object_get(c, keys[k]);
        if (json_array_size(list) == 0) abort();
        for (size_t i = 0; i < json_array_size(list); i++)
            if (json_integer_value(json_array_get(list, i)) > most[k]) abort();
    }
    json_decref(a);
    json_decref(c);
    free(text);
    return 0;
}
