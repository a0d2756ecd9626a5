/* mull-worker: the node's agent. */
#include <stdio.h>

int main(void) {
    fprintf(stderr, "error: cannot start (mull-worker): this build has no worker yet; nothing to do\n");
    return 1;
}
