/* Removes a file or a folder with all in it by descriptors, so that nobody who changes names meanwhile can lead the
 * removal out of the folder: links are removed, never followed. */
#ifndef MULL_SCHEMA_REMOVE_TREE_H
#define MULL_SCHEMA_REMOVE_TREE_H

/* name (one part, no slash) in the folder dir; 0, also when it is not there, or errno of the first failure: the rest is
 * removed all the same. Uses at most some 40 descriptors, however deep it goes. */
int mull_remove_at(int dir, const char *name);
/* The same of a path, whose folder must be one that only the caller may change. */
int mull_remove_tree(const char *path);

#endif
