/* Any bytes as a video: open, count, choose, decode. Resolution is small: hangs and leaks are what it looks for. */
#include "engine/media/image.h"
#include "engine/media/media.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const mull_media_limits limits = {.nframes = 4, .max_pixels = 3136, .max_source_pixels = 1 << 15};
    mull_media m;
    mull_error e = {0};
    if (mull_image_sniff(data, size) != MULL_FORMAT_UNKNOWN) return 0;
    int rc = mull_media_load_bytes(data, size, "fuzz", MULL_MEDIA_VIDEO, &limits, 0, &m, &e);
    if (rc && (!e.what[0] || !e.why[0] || m.patches)) abort();
    if (!rc && (m.nframes != 4 || m.indices[3] >= m.decoded_frames || !m.patches)) abort();
    mull_media_fini(&m);
    return 0;
}
