/* Schedules as cron writes them: minute, hour, day of the month, month, day of the week, each a star, numbers, ranges
 * with "-", steps with "/", lists with ","; months and days also by their first three letters; @hourly, @daily,
 * @midnight, @weekly, @monthly, @yearly. When such a moment comes is the database's to say, which knows time zones. */
#ifndef MULL_SCHEMA_CRON_H
#define MULL_SCHEMA_CRON_H

#include <jansson.h>
#include <stddef.h>

/* {"minute":[…],"hour":[…],"dom":[…],"month":[…],"dow":[…],"hour_any","dom_any","dow_any"} as mull_cron_set takes it. A
 * new reference; NULL with why filled. */
json_t *mull_cron_parse(const char *text, char *why, size_t why_cap);

#endif
