/* Spelling: what somebody may have meant. */
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

enum { NEAREST_WORD = 40 }; /* longer words are near nothing */

/* The entry of `names` (ends with NULL) closest in spelling to `word`, or NULL when none is near. */
const char *nearest_name(const char *word, const char *const *names);

#endif
