/* What errors of core/io.h mean: of the kernel that is there, and of the simulated one. */
#include "core/io.h"

#include <errno.h>
#include <string.h>

const char *
io_error_text(int error)
{
    /* strerror() of a known errno gives a constant text in glibc; unknown ones cannot come from the
     * kernel. */
    const char *text = strerrordesc_np(error < 0 ? -error : error);

    return text != NULL ? text : "unknown error";
}

bool
io_error_is_shortage(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS;
}

bool
io_error_is_no_buffer(int error)
{
    return error == -ENOBUFS;
}

bool
io_error_is_refused(int error)
{
    return error == -ECONNREFUSED;
}

bool
io_error_is_canceled(int error)
{
    return error == -ECANCELED;
}

bool
io_error_is_no_space(int error)
{
    return error == -ENOSPC || error == -EDQUOT;
}

bool
io_error_is_unsupported(int error)
{
    return error == -EINVAL || error == -EOPNOTSUPP;
}

bool
io_error_is_locked(int error)
{
    return error == -EWOULDBLOCK;
}

bool
io_error_is_again(int error)
{
    return error == -EINTR || error == -EAGAIN || error == -ECANCELED;
}
