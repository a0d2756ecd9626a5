/* A whole terminal screen: taken and given back, drawn from text, keys read. For mull top.
 *
 * The terminal is as it was before whatever ends the program: return, a signal, a stop (Ctrl-Z) and its continuation.
 */
#ifndef MULL_CLI_SCREEN_H
#define MULL_CLI_SCREEN_H

#include <stdbool.h>
#include <stddef.h>

enum { MULL_KEY_NONE = 0, MULL_KEY_UP = 256, MULL_KEY_DOWN, MULL_KEY_PAGE_UP, MULL_KEY_PAGE_DOWN, MULL_KEY_RESIZE };

/* Takes the terminal at stdin and stdout: alternate screen, no echo, no line discipline. 0, or -1 when it is none. */
int mull_screen_open(void);
void mull_screen_close(void);
void mull_screen_size(int *rows, int *columns);
/* Draws n lines from the top and clears what is below; a line is at most as wide as the screen (the caller's tables
 * are).
 */
void mull_screen_draw(char *const *lines, int n);
/* One key, MULL_KEY_NONE after seconds without one, or -1 when the terminal went away or a signal asked to end. */
int mull_screen_key(double seconds);

#endif
