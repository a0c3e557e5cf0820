/* io/gguf and the file system: split files, files that change while open, writers that fail, the reference
 * set of malformed files where it is at hand. */
#include "tests/unit/gguf_bytes.h"
#include "tests/unit/temp_dir.h"

#include "io/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Part `no` of `count` with one tensor of eight floats: its number. */
static void write_part(const char *path, uint16_t no, uint16_t count, const char *tensor, int32_t tensors)
{
    struct strbuf b;
    strbuf_init(&b);
    put_header(&b, 1, 3 + (no == 0));
    if (no == 0) put_key_u32(&b, "only.in.first", 5);
    put_key(&b, "split.no", GGUF_U16);
    strbuf_add(&b, &no, 2);
    put_key(&b, "split.count", GGUF_U16);
    strbuf_add(&b, &count, 2);
    put_key(&b, "split.tensors.count", GGUF_I32);
    strbuf_add(&b, &tensors, 4);
    put_tensor(&b, tensor, DT_F32, 8, 0, 0);
    put_pad(&b, 32);
    for (int i = 0; i < 8; i++) strbuf_add(&b, &(float){no}, 4);
    write_file(path, b.s, b.len);
    strbuf_finish(&b);
}

static void split_files(void **state)
{
    (void)state;
    struct err e;
    struct gguf *f;
    const char *first = "m-00001-of-00003.gguf", *second = "m-00002-of-00003.gguf",
               *third = "m-00003-of-00003.gguf";
    write_part(in_dir(first), 0, 3, "a", 3);
    write_part(in_dir(second), 1, 3, "b", 3);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_IO, "part 3 of 3: cannot open '");
    assert_non_null(strstr(e.msg, third));
    write_part(in_dir(third), 2, 3, "c", 3);
    for (int mode = GGUF_MMAP; mode <= GGUF_META; mode++) {
        OK(gguf_open(&f, in_dir(first), (enum gguf_mode)mode, &e));
        assert_int_equal(gguf_shards(f), 3);
        assert_int_equal(gguf_n_tensors(f), 3);
        assert_string_equal(gguf_shard_path(f, 1), in_dir(second));
        assert_int_equal(gguf_file_bytes(f),
                         gguf_shard_bytes(f, 0) + gguf_shard_bytes(f, 1) + gguf_shard_bytes(f, 2));
        uint32_t v = 0;
        OK(gguf_get_u32(f, "only.in.first", &v, &e));
        static const char *const names[] = {"a", "b", "c"};
        for (int i = 0; i < 3; i++) {
            const struct gguf_tensor *t = gguf_find_tensor(f, names[i]);
            assert_non_null(t);
            assert_int_equal(t->shard, i);
            float x = -1;
            OK(gguf_read_tensor(f, t, 28, &x, 4, &e));
            assert_true(x == (float)i);
            if (mode == GGUF_MMAP) assert_true(((const float *)t->data)[7] == (float)i);
        }
        gguf_close(&f);
    }
    FAILS(gguf_open(&f, in_dir(second), GGUF_MMAP, &e), ERR_ARG, "is part 2 of 3 of a split model: open '");
    assert_non_null(strstr(e.msg, first));
    write_part(in_dir("third.gguf"), 2, 3, "c", 3);
    FAILS(gguf_open(&f, in_dir("third.gguf"), GGUF_MMAP, &e), ERR_ARG,
          "is part 3 of 3 of a split model: open the first");
    write_part(in_dir("renamed.gguf"), 0, 3, "a", 3);
    FAILS(gguf_open(&f, in_dir("renamed.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "ends in '-00001-of-00003.gguf'");
    write_part(in_dir("m-00001-of-00004.gguf"), 0, 3, "a", 3);
    FAILS(gguf_open(&f, in_dir("m-00001-of-00004.gguf"), GGUF_MMAP, &e), ERR_FORMAT,
          "ends in '-00001-of-00003.gguf'");
    write_part(in_dir("single.gguf"), 0, 1, "a", 1);
    OK(gguf_open(&f, in_dir("single.gguf"), GGUF_MMAP, &e));
    gguf_close(&f);
    write_part(in_dir("wrong.gguf"), 7, 3, "a", 1);
    FAILS(gguf_open(&f, in_dir("wrong.gguf"), GGUF_MMAP, &e), ERR_FORMAT,
          "'split.no': expected less than split.count (3)");

    write_part(in_dir(third), 1, 3, "c", 3);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_FORMAT,
          "expected split.no 2 and split.count 3, found 1 and 3");
    write_part(in_dir(third), 2, 4, "c", 3);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_FORMAT, "found 2 and 4");
    write_part(in_dir(third), 2, 3, "b", 3);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_FORMAT, "tensor 'b' is there twice");
    write_part(in_dir(third), 2, 3, "c", 3);
    write_part(in_dir(first), 0, 3, "a", 4);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_FORMAT,
          "expected split.tensors.count (4) tensors in all parts, found 3");
    struct strbuf b = {0}; /* a later part that does not say it is one */
    put_header(&b, 0, 0);
    write_file(in_dir(third), b.s, b.len);
    FAILS(gguf_open(&f, in_dir(first), GGUF_MMAP, &e), ERR_FORMAT,
          "expected split.no 2 and split.count 3, found 0 and 0");
    /* 65535 parts that are not there cost nothing. */
    strbuf_finish(&b);
    write_part(in_dir("m-00001-of-65535.gguf"), 0, 65535, "a", 1);
    FAILS(gguf_open(&f, in_dir("m-00001-of-65535.gguf"), GGUF_MMAP, &e), ERR_IO,
          "part 2 of 65535: cannot open");
}

static void a_file_that_shrinks_is_an_error(void **state)
{
    (void)state;
    struct err e;
    struct gguf *f, *g;
    write_part(in_dir("shrinks.gguf"), 0, 1, "a", 1);
    OK(gguf_open(&f, in_dir("shrinks.gguf"), GGUF_MMAP, &e));
    OK(gguf_open(&g, in_dir("shrinks.gguf"), GGUF_READ, &e));
    OK(gguf_check_size(f, &e));
    float x;
    assert_int_equal(truncate(in_dir("shrinks.gguf"), 32), 0);
    FAILS(gguf_check_size(f, &e), ERR_IO, "and has 32 now: it was shortened");
    FAILS(gguf_read_tensor(f, gguf_tensor(f, 0), 0, &x, 4, &e), ERR_IO, "tensor 'a': ");
    FAILS(gguf_read_tensor(g, gguf_tensor(g, 0), 0, &x, 4, &e), ERR_IO, "it was shortened");
    uint32_t v = 0; /* metadata is a copy */
    OK(gguf_get_u32(f, "only.in.first", &v, &e));
    assert_string_equal(gguf_tensor(f, 0)->name, "a");
    gguf_close(&f);
    gguf_close(&g);
    /* Replacing the file, as Calor writes files, leaves the open one as it was. */
    write_part(in_dir("replaced.gguf"), 0, 1, "a", 1);
    OK(gguf_open(&f, in_dir("replaced.gguf"), GGUF_MMAP, &e));
    struct gguf_writer *w;
    OK(gguf_writer_create(&w, in_dir("replaced.gguf"), &e));
    OK(gguf_write_header(w, &e));
    OK(gguf_writer_finish(w, &e));
    gguf_writer_destroy(&w);
    OK(gguf_check_size(f, &e));
    OK(gguf_read_tensor(f, gguf_tensor(f, 0), 0, &x, 4, &e));
    gguf_close(&f);
    OK(gguf_open(&f, in_dir("replaced.gguf"), GGUF_MMAP, &e));
    assert_int_equal(gguf_n_tensors(f), 0);
    gguf_close(&f);
}

/* Files in the folder whose names begin so. */
static int count_files(const char *prefix)
{
    DIR *d = opendir(temp_dir);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *x; (x = readdir(d));) n += strncmp(x->d_name, prefix, strlen(prefix)) == 0;
    closedir(d);
    return n;
}

static void the_writer_checks_its_caller(void **state)
{
    (void)state;
    struct err e;
    struct gguf_writer *w;
    const uint64_t ne[4] = {32, 2, 0, 0}, odd[1] = {33}, huge[2] = {1ull << 62, 4};
    uint8_t bytes[64] = {0};
    OK(gguf_writer_create(&w, in_dir("out.gguf"), &e));
    FAILS(gguf_put_u32(w, "", 1, &e), ERR_ARG, "a key has 1 to 65535 bytes");
    FAILS(gguf_put_arr(w, "k", GGUF_STR, bytes, 1, &e), ERR_ARG, "no number type");
    FAILS(gguf_declare(w, "t", DT_F32, 0, ne, &e), ERR_ARG, "1 to 4 dimensions");
    FAILS(gguf_declare(w, "t", DT_F32, 3, ne, &e), ERR_ARG, "is no shape for F32");
    FAILS(gguf_declare(w, "t", DT_Q4_0, 1, odd, &e), ERR_ARG, "is no shape for Q4_0");
    FAILS(gguf_declare(w, "t", DT_F32, 2, huge, &e), ERR_ARG, "is no shape for F32");
    FAILS(gguf_declare(w, "t", (enum dtype)4, 1, ne, &e), ERR_ARG, "is no shape for unknown type");
    FAILS(gguf_declare(w, "", DT_F32, 1, ne, &e), ERR_ARG, "a tensor name has 1 to 64 bytes");
    OK(gguf_declare(w, "t", DT_Q4_0, 2, ne, &e));
    FAILS(gguf_declare(w, "t", DT_Q4_0, 2, ne, &e), ERR_ARG, "tensor 't' is declared twice");
    FAILS(gguf_write(w, bytes, 1, &e), ERR_STATE, "after the header");
    FAILS(gguf_writer_finish(w, &e), ERR_STATE, "no header was written");
    OK(gguf_put_u32(w, "general.alignment", 24, &e));
    FAILS(gguf_write_header(w, &e), ERR_ARG, "power of two from 8");
    OK(gguf_put_u32(w, "general.alignment", 64, &e));
    OK(gguf_write_header(w, &e));
    FAILS(gguf_write_header(w, &e), ERR_STATE, "before the header");
    FAILS(gguf_put_u32(w, "k", 1, &e), ERR_STATE, "before the header");
    FAILS(gguf_declare(w, "u", DT_F32, 1, ne, &e), ERR_STATE, "before the header");
    OK(gguf_write(w, bytes, 30, &e));
    FAILS(gguf_write(w, bytes, 7, &e), ERR_ARG, "tensor 't' has 36 bytes: 7 after the first 30 are too many");
    FAILS(gguf_writer_finish(w, &e), ERR_STATE, "only 30 were written");
    OK(gguf_write(w, bytes, 6, &e));
    FAILS(gguf_write(w, bytes, 1, &e), ERR_STATE, "after the last tensor");
    assert_int_equal(count_files("out.gguf"), 1); /* the temporary one */
    assert_int_equal(access(in_dir("out.gguf"), F_OK), -1);
    OK(gguf_writer_finish(w, &e));
    assert_int_equal(access(in_dir("out.gguf"), F_OK), 0);
    FAILS(gguf_write(w, bytes, 1, &e), ERR_STATE, "earlier");
    gguf_writer_destroy(&w);
    struct gguf *f;
    OK(gguf_open(&f, in_dir("out.gguf"), GGUF_READ, &e));
    assert_int_equal(gguf_alignment(f), 64);
    assert_int_equal(gguf_tensor(f, 0)->offset % 64, 0);
    assert_int_equal(gguf_file_bytes(f) % 64, 0);
    gguf_close(&f);

    OK(gguf_writer_create(&w, in_dir("gone.gguf"), &e));
    gguf_writer_destroy(&w);
    gguf_writer_destroy(&w);
    gguf_writer_destroy(NULL);
    assert_int_equal(count_files("gone.gguf"), 0);
    FAILS(gguf_writer_create(&w, temp_dir, &e), ERR_IO, "not a regular file");
    FAILS(gguf_writer_create(&w, in_dir("no/such/dir.gguf"), &e), ERR_IO, "cannot create");
}

static void keys_are_copied(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b = {0};
    put_header(&b, 0, 4);
    put_key(&b, "nested", GGUF_ARR);
    put_u32(&b, GGUF_ARR);
    put_u64(&b, 1);
    put_u32(&b, GGUF_STR);
    put_u64(&b, 1);
    put_name(&b, "deep");
    put_key_u32(&b, "split.count", 1);
    put_key(&b, "i64", GGUF_I64);
    put_u64(&b, (uint64_t)-3);
    put_key(&b, "words", GGUF_ARR);
    put_u32(&b, GGUF_STR);
    put_u64(&b, 2);
    put_name(&b, "one");
    put_name(&b, "two");
    write_file(in_dir("from.gguf"), b.s, b.len);
    struct gguf *f, *g;
    OK(gguf_open(&f, in_dir("from.gguf"), GGUF_READ, &e));
    struct gguf_writer *w;
    OK(gguf_writer_create(&w, in_dir("to.gguf"), &e));
    OK(gguf_put_copy(w, f, NULL, &e));
    OK(gguf_put_str(w, "i64", "now text", &e));
    OK(gguf_put_copy(w, f, "i64", &e));
    FAILS(gguf_put_copy(w, f, "none", &e), ERR_ARG, "has no key 'none' to copy");
    OK(gguf_write_header(w, &e));
    OK(gguf_writer_finish(w, &e));
    gguf_writer_destroy(&w);
    OK(gguf_open(&g, in_dir("to.gguf"), GGUF_READ, &e));
    assert_int_equal(gguf_n_kv(g), 3);
    assert_int_equal(gguf_find(g, "split.count"), -1); /* one file now */
    static const char *const keys[] = {"nested", "i64", "words"};
    for (int i = 0; i < 3; i++) {
        uint64_t n, m;
        const void *x = gguf_kv_raw(f, gguf_find(f, keys[i]), &n),
                   *y = gguf_kv_raw(g, gguf_find(g, keys[i]), &m);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, n);
    }
    gguf_close(&f);
    gguf_close(&g);
    strbuf_finish(&b);
}

/* A full disk, played by a limit on the size of files: at every stage the old file stands and nothing is left
 * beside it. */
static void a_full_disk_leaves_the_old_file(void **state)
{
    (void)state;
    struct err e;
    write_file(in_dir("old.gguf"), "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit was, now;
    getrlimit(RLIMIT_FSIZE, &was);
    static const rlim_t sizes[] = {0, 10, 100, 1000, 5000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct gguf_writer *w;
        const uint64_t ne[1] = {2048};
        uint8_t bytes[4096] = {0};
        now = (struct rlimit){sizes[i], was.rlim_max};
        setrlimit(RLIMIT_FSIZE, &now);
        OK(gguf_writer_create(&w, in_dir("old.gguf"), &e));
        OK(gguf_declare(w, "a", DT_F16, 1, ne, &e));
        OK(gguf_declare(w, "b", DT_F16, 1, ne, &e));
        e.msg[0] = 0;
        int rc = gguf_write_header(w, &e);
        if (rc == 0) rc = gguf_write(w, bytes, 4096, &e);
        if (rc == 0) rc = gguf_write(w, bytes, 4096, &e);
        setrlimit(RLIMIT_FSIZE, &was);
        assert_int_equal(rc, ERR_IO);
        assert_non_null(strstr(e.msg, "old.gguf': File too large"));
        FAILS(gguf_writer_finish(w, &e), ERR_STATE, "an earlier write failed");
        gguf_writer_destroy(&w);
        assert_int_equal(count_files("old.gguf"), 1);
        struct stat st;
        assert_int_equal(stat(in_dir("old.gguf"), &st), 0);
        assert_int_equal(st.st_size, 3);
    }
}

/* The set of malformed files that other readers were measured with. */
static void the_reference_set_is_judged_as_expected(void **state)
{
    (void)state;
    const char *shared = getenv("CALOR_SHARED");
    char path[512], line[256], name[64], verdict[16];
    snprintf(path, sizeof path, "%s/data/gguf-malformed/EXPECTED.tsv", shared ? shared : "../shared");
    FILE *list = fopen(path, "r");
    if (!list) {
        print_message("%s is not there (set CALOR_SHARED)\n", path);
        skip();
        return;
    }
    int n = 0;
    while (fgets(line, sizeof line, list)) {
        if (sscanf(line, "%63s %15s", name, verdict) != 2) continue;
        snprintf(path, sizeof path, "%s/data/gguf-malformed/%s.gguf", shared ? shared : "../shared", name);
        struct gguf *f;
        struct err e = {0};
        int rc = gguf_open(&f, path, GGUF_META, &e);
        gguf_close(&f);
        if ((rc == 0) != (strcmp(verdict, "ACCEPT") == 0))
            fail_msg("%s: expected %s, found %d %s", name, verdict, rc, e.msg);
        n++;
    }
    fclose(list);
    assert_int_equal(n, 27);
}

/* What may vary of a file with two tensors, 40000 and 100 bytes. */
struct variant {
    const char *key_value, *tensor;
    uint64_t dim;
    int changed; /* byte of the data that is flipped; -1: none */
    int more;    /* bytes behind the data */
};

static void write_variant(const char *path, const struct variant *v)
{
    static uint8_t data[40032 + 100 + 64];
    struct strbuf b;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7 + i / 251);
    if (v->changed >= 0) data[v->changed] ^= 1;
    strbuf_init(&b);
    put_header(&b, 2, 1);
    put_key(&b, "name", GGUF_STR);
    put_name(&b, v->key_value);
    put_tensor(&b, v->tensor, DT_I8, v->dim, 40000 / v->dim, 0);
    put_tensor(&b, "b", DT_I8, 100, 0, 40000);
    put_pad(&b, 32);
    strbuf_add(&b, data, (size_t)(40128 + v->more));
    write_file(path, b.s, b.len);
    strbuf_finish(&b);
}

static void identify(const char *path, enum gguf_mode mode, char out[33])
{
    struct err e;
    struct gguf *f;
    uint8_t id[16];
    OK(gguf_open(&f, path, mode, &e));
    OK(gguf_identity(f, id, &e));
    gguf_identity_text(id, out);
    gguf_close(&f);
}

static void identity_tells_models_apart(void **state)
{
    (void)state;
    char id[16][33];
    int n = 0;
    const struct variant plain = {"x", "a", 40000, -1, 0};
    struct variant all[] = {plain, plain, plain, plain, plain, plain, plain, plain, plain, plain};
    all[1].key_value = "y";
    all[2].tensor = "c";
    all[3].dim = 20000;
    all[4].changed = 0;
    all[5].changed = 4095;
    all[6].changed = 40000 - 4096;
    all[7].changed = 40000 - 1;
    all[8].changed = 40000 + 50;
    all[9].more = 1;
    for (; n < 10; n++) {
        char mapped[33];
        write_variant(in_dir("id.gguf"), &all[n]);
        identify(in_dir("id.gguf"), GGUF_READ, id[n]);
        identify(in_dir("id.gguf"), GGUF_MMAP, mapped);
        assert_string_equal(id[n], mapped);
        for (int k = 0; k < n; k++) assert_string_not_equal(id[n], id[k]);
    }
    /* Not: where it lies, and the middle of a tensor (bytes 4096 … n - 4097). */
    struct variant middle = plain;
    write_variant(in_dir("elsewhere.gguf"), &plain);
    identify(in_dir("elsewhere.gguf"), GGUF_MMAP, id[10]);
    assert_string_equal(id[10], id[0]);
    middle.changed = 4096;
    write_variant(in_dir("id.gguf"), &middle);
    identify(in_dir("id.gguf"), GGUF_MMAP, id[10]);
    assert_string_equal(id[10], id[0]);
    /* Plans and stores carry it: it must not change from one release to the next. */
    assert_string_equal(id[0], "1ad8344da982454df79bcbdaf29fde1a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_tells_models_apart),
        cmocka_unit_test(split_files),
        cmocka_unit_test(a_file_that_shrinks_is_an_error),
        cmocka_unit_test(the_writer_checks_its_caller),
        cmocka_unit_test(keys_are_copied),
        cmocka_unit_test(a_full_disk_leaves_the_old_file),
        cmocka_unit_test(the_reference_set_is_judged_as_expected),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
