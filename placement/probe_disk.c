/* The drive under a folder: read rates over block size and depth, past the page cache, at random places of a
 * file of our own that has no name and so goes away with us, however we end. */
#include "placement/probe_priv.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/stats.h"
#include "io/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    DEPTH_MOST = 64,
    BLOCK_MOST = 4 << 20,
    BUFFERS = 64 << 20, /* bytes in flight at most */
    WINDOWS = 10,       /* of a point's time: their rates are the spread */
    WINDOWS_LEAST = 3,
    LATENCIES = 20000,
    PIECE = 4 << 20, /* of writing the file */
};
#define FILE_LEAST (64u << 20)

struct drive {
    const char *dir;
    int fd;
    char path[64]; /* of fd */
    uint64_t bytes;
    unsigned char *buffer;
    struct aio *aio;
    double *latency;
};

static bool in_memory(const char *dir)
{
    struct statfs f;
    return statfs(dir, &f) == 0 && (f.f_type == 0x01021994 /* tmpfs */ || f.f_type == 0x858458f6 /* ramfs */);
}

/* One line of a file below /sys, without its end; "" where there is none. */
static void sys_line(const char *dir, const char *name, char *out, size_t size)
{
    char path[PATH_MAX + 64];
    out[0] = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    if (!f) return;
    if (!fgets(out, (int)size, f)) out[0] = 0;
    fclose(f);
    for (size_t n = strlen(out); n && (out[n - 1] == '\n' || out[n - 1] == ' ');) out[--n] = 0;
}

/* Model and memory node of the block device under the folder. */
static void name_drive(struct machine_disk *d, const char *dir)
{
    struct stat st;
    char link[64], real[PATH_MAX], model[64], node[16];
    d->node = -1;
    snprintf(d->name, sizeof d->name, "unknown drive");
    if (!realpath(dir, real)) snprintf(real, sizeof real, "%s", dir);
    snprintf(d->where, sizeof d->where, "%.250s", real);
    if (stat(dir, &st) != 0) return;
    snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
    if (!realpath(link, real)) return;
    sys_line(real, "partition", model, sizeof model);
    char *slash = strrchr(real, '/');
    if (model[0] && slash) *slash = 0; /* a partition: its drive is the folder above */
    slash = strrchr(real, '/');
    snprintf(d->name, sizeof d->name, "%.60s", slash ? slash + 1 : real);
    sys_line(real, "device/model", model, sizeof model);
    if (model[0]) snprintf(d->name, sizeof d->name, "%s", model);
    sys_line(real, "device/numa_node", node, sizeof node);
    if (!node[0]) sys_line(real, "device/device/numa_node", node, sizeof node);
    if (node[0]) d->node = atoi(node);
}

/* A file without a name. */
static int nameless(struct drive *d, struct err *e)
{
    d->fd = open(d->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (d->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        /* A file system that cannot do that: named for the blink of an eye. */
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/.calor-probe-XXXXXX", d->dir);
        d->fd = mkostemp(path, O_CLOEXEC);
        if (d->fd >= 0) unlink(path);
    }
    if (d->fd < 0) return err_set_errno(e, ERR_IO, "cannot create a file in '%s'", d->dir);
    snprintf(d->path, sizeof d->path, "/proc/self/fd/%d", d->fd);
    return 0;
}

/* Random bytes, so that no layer below can compress or share them, on the drive and out of the page cache. */
static int fill(struct probe *p, struct drive *d)
{
    uint64_t *piece = (uint64_t *)(void *)d->buffer;
    struct rng r;
    rng_init(&r, clock_ns());
    for (uint64_t at = 0; at < d->bytes; at += PIECE) {
        int rc = probe_tell(p, "disk, writing", 0.2 * (double)at / (double)d->bytes);
        if (rc) return rc;
        for (size_t i = 0; i < PIECE / sizeof *piece; i++) piece[i] = rng_u64(&r);
        for (size_t n = 0; n < PIECE;) {
            ssize_t w = pwrite(d->fd, d->buffer + n, PIECE - n, (off_t)(at + n));
            if (w < 0 && errno == EINTR) continue;
            if (w <= 0) return err_set_errno(p->e, ERR_IO, "writing to a file in '%s'", d->dir);
            n += (size_t)w;
        }
    }
    if (fdatasync(d->fd) != 0) return err_set_errno(p->e, ERR_IO, "writing to a file in '%s'", d->dir);
    posix_fadvise(d->fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

/* Keeps `depth` reads of `block` bytes in flight for `seconds`. */
static int one_point(struct probe *p, struct drive *d, uint32_t block, uint32_t depth, double seconds,
                     struct machine_point *out)
{
    struct probe_samples windows = {0};
    struct aio_read q[DEPTH_MOST];
    struct aio_done done[DEPTH_MOST];
    unsigned n_q = depth;
    uint32_t n_latency = 0;
    uint64_t blocks = d->bytes / block, window_bytes = 0, total = 0;
    struct rng r;
    rng_init(&r, ((uint64_t)block << 8) + depth);
    for (unsigned i = 0; i < depth; i++)
        q[i] = (struct aio_read){.offset = rng_below(&r, blocks) * block,
                                 .dst = d->buffer + (size_t)i * block,
                                 .bytes = block,
                                 .user = i};
    uint64_t start = clock_ns(), window = start, first = 0;
    bool warm = false;
    while (n_q || aio_in_flight(d->aio)) {
        unsigned k = aio_submit(d->aio, q, n_q);
        memmove(q, q + k, (n_q -= k) * sizeof *q);
        unsigned n = aio_wait(d->aio, done, 1, DEPTH_MOST);
        uint64_t now = clock_ns();
        /* A machine that stood still for a while needs longer for its windows. */
        bool over = (double)(now - start) * 1e-9 >= seconds && windows.n >= WINDOWS_LEAST;
        for (unsigned i = 0; i < n; i++) {
            if (done[i].error) {
                int rc = aio_explain(d->aio, &done[i], p->e);
                while (aio_in_flight(d->aio)) aio_wait(d->aio, done, 1, DEPTH_MOST);
                return err_prefix(p->e, rc, "measuring the drive under '%s'", d->dir);
            }
            if (warm && first && !over) {
                window_bytes += done[i].bytes;
                total += done[i].bytes;
            }
            if (warm && n_latency < LATENCIES) d->latency[n_latency++] = (double)done[i].ns * 1e-9;
            if (!over)
                q[n_q++] = (struct aio_read){.offset = rng_below(&r, blocks) * block,
                                             .dst = d->buffer + done[i].user * block,
                                             .bytes = block,
                                             .user = done[i].user};
        }
        double share = (double)(now - window) * 1e-9 / seconds;
        if (!warm && share >= 0.1) { /* the first tenth is not counted */
            warm = true;
            first = window = now;
        } else if (warm && !over && share >= 0.9 / WINDOWS && window_bytes) {
            probe_add(&windows, (double)window_bytes / ((double)(now - window) * 1e-9));
            window = now;
            window_bytes = 0;
            out->rate.value = (double)total / ((double)(now - first) * 1e-9);
        }
        if (!over &&
            probe_tell(p, "disk, reading", out->p50)) { /* p50: where in the part, until it is known */
            while (aio_in_flight(d->aio)) aio_wait(d->aio, done, 1, DEPTH_MOST);
            return ERR_CANCELLED;
        }
    }
    struct machine_figure spread = probe_figure(&windows);
    double mean = out->rate.value;
    out->x = block;
    out->depth = depth;
    /* The mean of all bytes: windows see only whole reads. */
    out->rate = (struct machine_figure){mean, spread.low < mean ? spread.low : mean,
                                        spread.high > mean ? spread.high : mean, windows.n};
    stats_sort(d->latency, n_latency);
    out->p50 = stats_percentile(d->latency, n_latency, 50);
    out->p99 = stats_percentile(d->latency, n_latency, 99);
    return 0;
}

static int curve(struct probe *p, struct drive *d, struct machine_disk *out, double seconds)
{
    static const uint32_t blocks[] = {4096, 16384, 65536, 262144, 1 << 20, BLOCK_MOST},
                          depths[] = {1, 2, 4, 8, 16, 32, DEPTH_MOST},
                          quick_blocks[] = {4096, 65536, 1 << 20}, quick_depths[] = {1, 8, 64};
    const uint32_t *block = p->s->quick ? quick_blocks : blocks, *depth = p->s->quick ? quick_depths : depths;
    const int nb = p->s->quick ? 3 : 6, nd = p->s->quick ? 3 : 7;
    int points = 0, k = 0;
    for (int i = 0; i < nd; i++)
        for (int b = 0; b < nb; b++) points += (uint64_t)block[b] * depth[i] <= BUFFERS;
    for (int i = 0; i < nd; i++)
        for (int b = 0; b < nb; b++) {
            if ((uint64_t)block[b] * depth[i] > BUFFERS) continue;
            struct machine_point *at = &out->read.at[out->read.n];
            *at = (struct machine_point){.p50 = 0.2 + 0.8 * k++ / points};
            int rc = one_point(p, d, block[b], depth[i], seconds / points, at);
            if (rc) return rc;
            out->read.n++;
        }
    return 0;
}

int probe_disk_folder(const struct probe *p)
{
    const char *dir = p->s->dir ? p->s->dir : ".";
    struct stat st;
    if (!*dir) return 0;
    if (stat(dir, &st) != 0) return err_set_errno(p->e, ERR_IO, "cannot look at the folder '%s'", dir);
    if (!S_ISDIR(st.st_mode)) return err_set(p->e, ERR_IO, "'%s' is not a folder", dir);
    return 0;
}

int probe_disk(struct probe *p, double seconds)
{
    struct drive d = {.dir = p->s->dir ? p->s->dir : ".", .fd = -1};
    struct statvfs space;
    char have[32];
    int rc = 0;
    if (!*d.dir) return 0;
    if (statvfs(d.dir, &space) != 0)
        return err_set_errno(p->e, ERR_IO, "cannot look at the folder '%s'", d.dir);
    if (in_memory(d.dir)) {
        machine_add_note(p->m, "disk", "'%.200s' lies in memory: there is no drive to measure", d.dir);
        return 0;
    }
    uint64_t room = (uint64_t)space.f_bavail * space.f_frsize;
    d.bytes = p->s->quick ? 256u << 20 : 1u << 30;
    while (d.bytes > room / 4 && d.bytes > FILE_LEAST) d.bytes /= 2;
    if (d.bytes > room / 2) {
        machine_add_note(p->m, "disk", "'%.200s' has only %s free: the drive was not measured", d.dir,
                         size_format(room, have, sizeof have));
        return 0;
    }
    d.buffer = probe_memory(p, BUFFERS);
    d.latency = malloc(LATENCIES * sizeof *d.latency);
    if (!d.buffer || !d.latency) {
        rc = err_set(p->e, ERR_NOMEM, "no memory to measure the drive with");
        goto out;
    }
    if ((rc = nameless(&d, p->e)) || (rc = fill(p, &d))) goto out;
    struct aio_settings s = {.depth = DEPTH_MOST, .file = {{.path = d.path}}, .n_files = 1, .n_buffers = 1};
    s.buffer[0].p = d.buffer;
    s.buffer[0].n = BUFFERS;
    if ((rc = aio_open(&d.aio, &s, p->e))) goto out;
    struct machine_disk *disk = &p->m->disk[0];
    *disk = (struct machine_disk){.direct = aio_direct(d.aio, 0)};
    name_drive(disk, d.dir);
    if (disk->node < -1 || disk->node >= (int)p->m->nodes) disk->node = -1;
    if ((rc = curve(p, &d, disk, seconds * 0.8))) goto out;
    disk->direct = aio_direct(d.aio, 0);
    p->m->n_disks = 1;
    machine_add_note(
        p->m, "disk",
        "%s, %s, %s; reads at random aligned places of a file of %llu MiB of random bytes in the folder, "
        "%.2f s a point; rate: all bytes over the time, spread: of its tenths; latency: from submission to "
        "completion, 50th and 99th percentile",
        aio_name(d.aio), disk->direct ? "O_DIRECT" : "through the page cache (O_DIRECT is refused)",
        aio_registered(d.aio) ? "registered buffers" : "plain buffers", (unsigned long long)d.bytes >> 20,
        seconds * 0.8 / disk->read.n);
out:
    aio_close(&d.aio);
    if (d.fd >= 0) close(d.fd);
    if (d.buffer) munmap(d.buffer, BUFFERS);
    free(d.latency);
    return rc;
}
