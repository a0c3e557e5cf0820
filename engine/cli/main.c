/* calor: the command line. One file per command. */
#include "engine/calor.h"

#include <stdio.h>

int main(void)
{
    printf("calor %s\n", calor_version());
    return 0;
}
