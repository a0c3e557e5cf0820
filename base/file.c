/* Files: see file.h. */
#include "base/file.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_open(const char *path, int *fd, uint64_t *size, struct err *e)
{
    /* O_NONBLOCK: opening a FIFO must fail the type check below, not wait for a writer. */
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f < 0) return err_set_errno(e, ERR_IO, "cannot open '%s'", path);
    struct stat st;
    if (fstat(f, &st) != 0) {
        err_set_errno(e, ERR_IO, "cannot examine '%s'", path);
        close(f);
        return ERR_IO;
    }
    if (!S_ISREG(st.st_mode)) {
        close(f);
        const char *what = S_ISDIR(st.st_mode)    ? "a directory"
                           : S_ISFIFO(st.st_mode) ? "a pipe"
                           : S_ISSOCK(st.st_mode) ? "a socket"
                                                  : "a device";
        return err_set(e, ERR_IO, "'%s' is %s: expected a regular file", path, what);
    }
    *fd = f;
    *size = (uint64_t)st.st_size;
    return 0;
}

int file_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset, struct err *e)
{
    char *p = dst;
    size_t done = 0;
    while (done < n) {
        ssize_t r = pread(fd, p + done, n - done, (off_t)(offset + done));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return err_set_errno(e, ERR_IO, "reading '%s' at offset %llu", path,
                                 (unsigned long long)(offset + done));
        if (r == 0)
            return err_set(e, ERR_IO, "'%s' ends at byte %llu: expected %zu more there (was it truncated?)",
                           path, (unsigned long long)(offset + done), n - done);
        done += (size_t)r;
    }
    return 0;
}

int file_read_all(const char *path, uint64_t limit, char **data, size_t *size, struct err *e)
{
    int fd = -1;
    uint64_t n = 0;
    int rc = file_open(path, &fd, &n, e);
    if (rc) return rc;
    if (n > limit) {
        close(fd);
        return err_set(e, ERR_FORMAT, "'%s' has %llu bytes: at most %llu are read of such a file", path,
                       (unsigned long long)n, (unsigned long long)limit);
    }
    char *p = malloc((size_t)n + 1);
    if (!p)
        rc = err_set(e, ERR_NOMEM, "no memory for the %llu bytes of '%s'", (unsigned long long)n, path);
    else
        rc = file_read_at(fd, path, p, (size_t)n, 0, e);
    close(fd);
    if (rc) {
        free(p);
        return rc;
    }
    p[n] = 0;
    *data = p;
    *size = (size_t)n;
    return 0;
}

int file_out_open(struct file_out *f, const char *path, struct err *e)
{
    *f = (struct file_out){.fd = -1};
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(e, ERR_IO, "'%s' exists and is not a regular file: not overwritten", path);
    if (access(path, F_OK) == 0 && access(path, W_OK) != 0)
        return err_set_errno(e, ERR_IO, "'%s' is not writable", path);
    size_t n = strlen(path);
    f->path = strdup(path);
    f->temp = malloc(n + 16);
    if (!f->path || !f->temp) {
        file_out_discard(f);
        return err_set(e, ERR_NOMEM, "no memory to write '%s'", path);
    }
    snprintf(f->temp, n + 16, "%s.tmp-XXXXXX", path);
    f->fd = mkostemp(f->temp, O_CLOEXEC);
    if (f->fd < 0) {
        err_set_errno(e, ERR_IO, "cannot create a file beside '%s'", path);
        free(f->temp);
        f->temp = NULL;
        file_out_discard(f);
        return ERR_IO;
    }
    mode_t mask = umask(0);
    umask(mask);
    fchmod(f->fd, 0666 & ~mask);
    return 0;
}

int file_out_write(struct file_out *f, const void *data, size_t n, struct err *e)
{
    const char *p = data;
    while (n) {
        ssize_t r = write(f->fd, p, n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return err_set_errno(e, ERR_IO, "writing '%s'", f->path);
        p += r;
        n -= (size_t)r;
    }
    return 0;
}

int file_out_write_at(struct file_out *f, const void *data, size_t n, uint64_t offset, struct err *e)
{
    const char *p = data;
    while (n) {
        ssize_t r = pwrite(f->fd, p, n, (off_t)offset);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return err_set_errno(e, ERR_IO, "writing '%s' at offset %llu", f->path,
                                 (unsigned long long)offset);
        p += r;
        offset += (uint64_t)r;
        n -= (size_t)r;
    }
    return 0;
}

/* The rename itself is only durable once its directory is. */
static int sync_directory(const char *path)
{
    char *dir = strdup(path);
    if (!dir) return -1;
    char *slash = strrchr(dir, '/');
    if (slash == dir)
        dir[1] = 0;
    else if (slash)
        *slash = 0;
    int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (fd < 0) return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

int file_out_commit(struct file_out *f, struct err *e)
{
    int rc = 0;
    if (fsync(f->fd) != 0) rc = err_set_errno(e, ERR_IO, "writing '%s' to disk", f->path);
    if (close(f->fd) != 0 && rc == 0) rc = err_set_errno(e, ERR_IO, "closing '%s'", f->path);
    f->fd = -1;
    if (rc == 0 && rename(f->temp, f->path) != 0)
        rc = err_set_errno(e, ERR_IO, "renaming '%s' to '%s'", f->temp, f->path);
    if (rc == 0) {
        free(f->temp);
        f->temp = NULL;
        sync_directory(f->path); /* some file systems refuse it; the data itself is safe by now */
    }
    file_out_discard(f);
    return rc;
}

void file_out_discard(struct file_out *f)
{
    if (f->fd >= 0) close(f->fd);
    if (f->temp) unlink(f->temp);
    free(f->temp);
    free(f->path);
    *f = (struct file_out){.fd = -1};
}
