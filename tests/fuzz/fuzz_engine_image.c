/* Any bytes as an image: decode, resize, patches. Small limits keep one input fast; what counts is that foreign bytes
 * end in pixels or one error. */
#include "engine/media/image.h"
#include "engine/media/media.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const mull_media_limits limits = {.max_pixels = 3136, .max_source_pixels = 1 << 18};
    mull_media m;
    mull_error e = {0};
    if (mull_image_sniff(data, size) == MULL_FORMAT_UNKNOWN) return 0; /* the video fuzzer's part */
    int rc = mull_media_load_bytes(data, size, "fuzz", MULL_MEDIA_IMAGE, &limits, 0, &m, &e);
    if (rc && (!e.what[0] || !e.why[0] || m.patches)) abort();
    if (!rc && (m.width < 1 || m.height < 1 || m.tokens < 1 || !m.patches)) abort();
    mull_media_fini(&m);
    return 0;
}
