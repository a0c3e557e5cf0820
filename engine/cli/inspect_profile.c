/* calor inspect for profiles. */
#include "engine/cli/inspect.h"

#include "base/err.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "io/gguf.h"
#include "placement/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool inspect_is_profile(const struct gguf *f)
{
    struct gguf_str s = {"", 0};
    return gguf_get_str(f, "general.type", &s, NULL) == 0 && s.n == 13 &&
           memcmp(s.s, "calor.profile", 13) == 0;
}

int inspect_profile(const struct inspect *in, struct err *e)
{
    struct profile *p;
    int rc = profile_open(&p, in->path, e);
    if (rc) return rc;
    if (in->json) {
        rc = json_print(profile_report_json(p), stdout, e);
    } else {
        struct strbuf b;
        strbuf_init(&b);
        profile_report_text(p, &b);
        char id[33], *text = strbuf_take(&b);
        gguf_identity_text(profile_subject(p)->identity, id);
        if (text) {
            printf("profile of the model %s\n", id);
            fputs(text, stdout);
        } else
            rc = err_set(e, ERR_NOMEM, "no memory for the report");
        free(text);
    }
    profile_close(&p);
    return rc;
}
