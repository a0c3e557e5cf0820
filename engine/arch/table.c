/* The table of architectures. */
#include "engine/arch/arch.h"

#include <string.h>

static const struct arch *const archs[] = {
    &arch_llama, &arch_qwen2, &arch_minicpm, &arch_bamboo, &arch_opt, &arch_falcon,
};

const struct arch *arch_find(const char *name, uint64_t n)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strlen(archs[i]->name) == n && memcmp(archs[i]->name, name, n) == 0) return archs[i];
    return NULL;
}

const char *arch_names(void)
{
    return "llama, qwen2, minicpm, bamboo, opt, falcon";
}
