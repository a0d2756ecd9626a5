/* What the leader knows, for those who ask when a job would start. */
#include "scheduler/leader_internal.h"

#include <stdlib.h>
#include <string.h>

static bool knows(const mull_leader *l) {
    return l->state == MULL_LEADING || l->state == MULL_VIEWING;
}

mull_forecast *mull_leader_snapshot(const mull_leader *l) {
    mull_policy_running *running = NULL;
    mull_policy_place *places = NULL;
    size_t place_count = 0;
    mull_forecast *f = NULL;
    if (knows(l) && mull__running_view(l, &running, &places, &place_count))
        f = mull_forecast_take(&l->queue, running, l->queue.attempt_count, places, place_count, mull__unix_ms());
    free(running);
    free(places);
    return f;
}

bool mull_leader_job_of(mull_leader *l, const json_t *item, int64_t id, mull_policy_job *job) {
    const char *team = json_string_value(json_object_get(item, "team")),
               *user = json_string_value(json_object_get(item, "user"));
    const json_t *array = json_object_get(item, "array"), *labels = json_object_get(item, "labels"), *word;
    if (!knows(l) || !team || !user) return false;
    char words[16 * MULL_NAME_MAX] = "";
    size_t i;
    json_array_foreach(labels, i, word) {
        size_t n = strlen(words);
        snprintf(words + n, sizeof words - n, "%s\n", json_string_value(word));
    }
    int64_t limit = json_integer_value(json_object_get(item, "time_limit_s"));
    *job = (mull_policy_job){
        .id = id,
        .eligible_ms = json_integer_value(json_object_get(item, "begin_ms")),
        .time_limit_ms = limit * 1000,
        .labels = mull_queue_label_bits(&l->queue, words),
        .priority = (int32_t)json_integer_value(json_object_get(item, "priority")),
        .gpus = (int32_t)json_integer_value(json_object_get(item, "gpus")),
        .slots = (int32_t)json_integer_value(json_object_get(item, "slots")),
        .user = mull_queue_user(&l->queue, team, user),
        .tasks = json_is_object(array) ? (int32_t)json_integer_value(json_object_get(array, "total")) : 1,
        .avoid_node = -1};
    return job->user >= 0;
}
