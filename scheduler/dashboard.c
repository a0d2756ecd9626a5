/* The dashboard: three files of scheduler/dashboard, carried in the program. They hold no data: what they show comes
 * from /v1 with the viewer's token, so they are served to everybody and need no state here. */
#include "scheduler/front.h"

#include <stdlib.h>
#include <string.h>

#define ASSET(name, file)                                                                                              \
    __asm__(".section .rodata\n.global mull_asset_" #name "\nmull_asset_" #name ":\n.incbin \"" MULL_DASHBOARD file    \
            "\"\n.global mull_asset_" #name "_end\nmull_asset_" #name "_end:\n.byte 0\n.previous\n");                  \
    extern const char mull_asset_##name[], mull_asset_##name##_end[];
ASSET(page, "index.html")
ASSET(script, "dashboard.js")
ASSET(style, "dashboard.css")

static const struct {
    int route;
    const char *data, *end;
} assets[] = {{MULL_ROUTE_DASHBOARD, mull_asset_page, mull_asset_page_end},
              {MULL_ROUTE_DASHBOARD_JS, mull_asset_script, mull_asset_script_end},
              {MULL_ROUTE_DASHBOARD_CSS, mull_asset_style, mull_asset_style_end}};

void mull__dashboard(mull_req *req) {
    size_t i = 0;
    while (i < sizeof assets / sizeof *assets - 1 && assets[i].route != mull_req_route(req)->id) i++;
    size_t len = (size_t)(assets[i].end - assets[i].data);
    char *copy = malloc(len);
    if (!copy) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    memcpy(copy, assets[i].data, len);
    mull_reply(req, 200, mull_route_get(assets[i].route)->produces, copy, len);
}
