/* What a node offers: CPU slots and CUDA devices. */
#ifndef MULL_WORKER_DEVICES_H
#define MULL_WORKER_DEVICES_H

#include "schema/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { MULL_DEVICES_MAX = 256 };

/* What --devices asks for. */
typedef struct mull_device_ask {
    int cpu; /* slots */
    bool cuda_all;
    int cuda[MULL_DEVICES_MAX]; /* indexes, ascending, when not all */
    int cuda_count;
} mull_device_ask;

typedef struct mull_node_device {
    bool cuda;
    int index;
    int64_t memory; /* bytes: of the device, or a CPU slot's share of the machine's */
    int threads;    /* CPU threads its engine should use */
    char name[96];
    char uuid[48]; /* GPU-…, "" for CPU slots */
} mull_node_device;

typedef struct mull_devices {
    mull_node_device at[MULL_DEVICES_MAX];
    int count;
} mull_devices;

/* cpu:N, cuda:all, cuda:0,1 or several of them joined by '+'. */
int mull_devices_parse(const char *text, mull_device_ask *ask, mull_err *err);
/* Finds them. A named CUDA device that is not there is an error; cuda:all with none is not, and is said. */
int mull_devices_find(const mull_device_ask *ask, mull_devices *out, mull_err *err);
const mull_node_device *mull_devices_get(const mull_devices *d, bool cuda, int index);
/* The list of node_hello. */
json_t *mull_devices_json(const mull_devices *d);

/* cuda.c: all CUDA devices of the machine, through the driver (libcuda.so.1, loaded when there). Returns how many; why
 * says it when there are none. */
int mull__cuda_list(mull_node_device *out, int cap, char *why, size_t why_cap);

#endif
