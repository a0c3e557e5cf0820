/* Choosing the kernel table: see kernels.h. */
#include "kernels/kernels.h"

const char *kern_cpu_features(void)
{
    return "";
}
