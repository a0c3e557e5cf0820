/* Version and error names of the public interface. */
#include "engine/calor.h"

#include "base/err.h"

_Static_assert((int)CALOR_ENOMEM == (int)ERR_NOMEM && (int)CALOR_EIO == (int)ERR_IO &&
                   (int)CALOR_EFORMAT == (int)ERR_FORMAT && (int)CALOR_EUNSUPPORTED == (int)ERR_UNSUPPORTED &&
                   (int)CALOR_EARG == (int)ERR_ARG && (int)CALOR_ESTALE == (int)ERR_STALE &&
                   (int)CALOR_EFULL == (int)ERR_FULL && (int)CALOR_ECANCELLED == (int)ERR_CANCELLED &&
                   (int)CALOR_ENUMERIC == (int)ERR_NUMERIC && (int)CALOR_EDEVICE == (int)ERR_DEVICE &&
                   (int)CALOR_ESTATE == (int)ERR_STATE,
               "calor.h's codes are base/err.h's");

const char *calor_version(void)
{
    return CALOR_VERSION;
}

const char *calor_error_name(int code)
{
    return err_name(code);
}
