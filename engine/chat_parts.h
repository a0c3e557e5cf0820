/* What chat_table.c says of a template and chat.c writes. Private to these two. */
#ifndef ENGINE_CHAT_PARTS_H
#define ENGINE_CHAT_PARTS_H

#include <stdbool.h>

enum place {
    SYSTEM_TURN,  /* a message like the others */
    SYSTEM_FIRST, /* inside the first user message */
    SYSTEM_LAST,  /* inside the last message, when that is the user's */
};

struct around {
    const char *before, *after;
    bool trim;
};

/* In the strings, \1 is the model's BOS and \2 its EOS, written out. */
struct chat_template {
    const char *name;
    struct around system, user, assistant;
    const char *generate;
    const char *done;           /* at the end, when no answer is asked for */
    const char *start;          /* before everything */
    const char *default_system; /* where the conversation has none */
    enum place place;
    bool drop_thoughts; /* earlier answers are shown without what stands before "</think>" … */
    bool keep_newlines; /* … and the line ends behind it */
};

/* All templates. */
extern const struct chat_template chat_table[];
extern const int chat_table_count;

#endif
