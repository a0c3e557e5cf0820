/* Readers and writers without memory: the Nth allocation fails, for every N until nothing fails any more.
 * Each time: ERR_NOMEM with a message, no file left behind; the sanitizer build sees to leaks and use after
 * free. */
#include "tests/unit/gguf_bytes.h"
#include "tests/unit/starve.h"
#include "tests/unit/temp_dir.h"

#include "io/gguf.h"
#include "io/npy.h"
#include "io/powerinfer.h"
#include "io/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t shape[1] = {8};

static int write_gguf(struct err *e)
{
    struct gguf_writer *w;
    struct gguf_str words[2] = {{"a", 1}, {"bc", 2}};
    float values[8] = {0};
    int rc = gguf_writer_create(&w, in_dir("w.gguf"), e);
    if (rc) return rc;
    char name[32];
    for (int i = 0; i < 40 && rc == 0; i++) { /* the tables grow */
        snprintf(name, sizeof name, "k%d", i);
        rc = gguf_put_u32(w, name, 1, e);
    }
    if (rc == 0) rc = gguf_put_str(w, "s", "text", e);
    if (rc == 0) rc = gguf_put_arr(w, "a", GGUF_F32, values, 8, e);
    if (rc == 0) rc = gguf_put_strs(w, "w", words, 2, e);
    if (rc == 0) rc = gguf_put_str(w, "s", "other", e);
    for (int i = 0; i < 70 && rc == 0; i++) {
        snprintf(name, sizeof name, "t%d", i);
        rc = gguf_declare(w, name, DT_F32, 1, shape, e);
    }
    if (rc == 0) rc = gguf_write_header(w, e);
    for (int i = 0; i < 70 && rc == 0; i++) rc = gguf_write(w, values, sizeof values, e);
    if (rc == 0) rc = gguf_writer_finish(w, e);
    gguf_writer_destroy(&w);
    return rc;
}

static int read_gguf(struct err *e, enum gguf_mode mode)
{
    struct gguf *f;
    int rc = gguf_open(&f, in_dir("w.gguf"), mode, e);
    assert_true((rc == 0) == (f != NULL));
    gguf_close(&f);
    return rc;
}

static int map_gguf(struct err *e)
{
    return read_gguf(e, GGUF_MMAP);
}

static int list_gguf(struct err *e)
{
    return read_gguf(e, GGUF_META);
}

static int copy_gguf(struct err *e)
{
    struct gguf *f;
    struct gguf_writer *w = NULL;
    int rc = gguf_open(&f, in_dir("w.gguf"), GGUF_READ, e);
    if (rc) return rc;
    rc = gguf_writer_create(&w, in_dir("c.gguf"), e);
    if (rc == 0) rc = gguf_put_copy(w, f, NULL, e);
    if (rc == 0) rc = gguf_write_header(w, e);
    if (rc == 0) rc = gguf_writer_finish(w, e);
    gguf_writer_destroy(&w);
    gguf_close(&f);
    return rc;
}

static int open_split(struct err *e)
{
    struct gguf *f;
    int rc = gguf_open(&f, in_dir("s-00001-of-00002.gguf"), GGUF_MMAP, e);
    gguf_close(&f);
    return rc;
}

static int open_unsorted(struct err *e)
{
    struct gguf *f;
    int rc = gguf_open(&f, in_dir("u.gguf"), GGUF_READ, e);
    gguf_close(&f);
    return rc;
}

static int read_index(struct err *e)
{
    struct gguf *f;
    int32_t *bucket = NULL;
    uint64_t n, neurons;
    int rc = gguf_open(&f, in_dir("pi.gpuidx"), GGUF_READ, e);
    if (rc) return rc;
    rc = powerinfer_layer(f, 0, &bucket, &n, &neurons, e);
    free(bucket);
    gguf_close(&f);
    return rc;
}

static void count_temporaries(void)
{
    DIR *d = opendir(temp_dir);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        if (strstr(x->d_name, ".tmp-")) fail_msg("'%s' was left behind", x->d_name);
    closedir(d);
}

static void gguf(void **state)
{
    (void)state;
    starve(write_gguf, 150);
    count_temporaries();
    starve(map_gguf, 7);
    starve(list_gguf, 6);
    starve(copy_gguf, 100);
    count_temporaries();
    struct strbuf b = {0};
    for (uint16_t i = 0; i < 2; i++) {
        put_header(&b, 1, 2);
        put_key(&b, "split.no", GGUF_U16);
        strbuf_add(&b, &i, 2);
        put_key(&b, "split.count", GGUF_U16);
        strbuf_add(&b, &(uint16_t){2}, 2);
        put_tensor(&b, i ? "b" : "a", DT_F32, 8, 0, 0);
        put_pad(&b, 32);
        put_zeros(&b, 32);
        write_file(in_dir(i ? "s-00002-of-00002.gguf" : "s-00001-of-00002.gguf"), b.s, b.len);
        strbuf_finish(&b);
    }
    starve(open_split, 12);
    put_header(&b, 2, 0);
    put_tensor(&b, "a", DT_F32, 8, 0, 32);
    put_tensor(&b, "b", DT_F32, 8, 0, 0);
    put_pad(&b, 32);
    put_zeros(&b, 64);
    write_file(in_dir("u.gguf"), b.s, b.len);
    strbuf_finish(&b);
    starve(open_unsorted, 5);
    put_header(&b, 2, 0);
    memcpy(b.s, "PWRI", 4);
    put_tensor(&b, "blk.0.gpu_idx", DT_I32, 2, 0, 0);
    put_tensor(&b, "blk.0.gpu_bucket", DT_I32, 1, 0, 32);
    put_pad(&b, 32);
    strbuf_add(&b, ((int32_t[]){0, 1}), 8);
    put_pad(&b, 32);
    strbuf_add(&b, ((int32_t[]){1}), 4);
    put_pad(&b, 32);
    write_file(in_dir("pi.gpuidx"), b.s, b.len);
    strbuf_finish(&b);
    starve(read_index, 8);
}

static int open_folder(struct err *e)
{
    struct safetensors *f;
    int rc = safetensors_open(&f, in_dir("hf"), e);
    assert_true((rc == 0) == (f != NULL));
    safetensors_close(&f);
    return rc;
}

static void put_safetensors(const char *path, const char *header)
{
    struct strbuf b = {0};
    put_name(&b, header);
    put_zeros(&b, 8);
    write_file(path, b.s, b.len);
    strbuf_finish(&b);
}

static void safetensors(void **state)
{
    (void)state;
    static const char index[] = "{\"weight_map\":{\"a\":\"1\",\"b\":\"2\",\"c\":\"2\"}}";
    assert_int_equal(mkdir(in_dir("hf"), 0700), 0);
    write_file(in_dir("hf/model.safetensors.index.json"), index, sizeof index - 1);
    put_safetensors(in_dir("hf/1"), "{\"__metadata__\":{\"x\":\"y\",\"z\":\"\"},"
                                    "\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}");
    put_safetensors(in_dir("hf/2"), "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                                    "\"c\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[4,8]}}");
    json_set_alloc_funcs(__wrap_malloc, free); /* jansson's own too: it is linked, not compiled here */
    through_jansson = true;
    starve(open_folder, 60);
    through_jansson = false;
    json_set_alloc_funcs(malloc, free);
}

static int write_npy(struct err *e)
{
    struct npy_writer *w;
    float v[4] = {0};
    int rc = npy_writer_create(&w, in_dir("a.npy"), 2, 2, NULL, e);
    if (rc) return rc;
    rc = npy_write(w, v, 4, e);
    if (rc == 0) rc = npy_writer_finish(w, e);
    npy_writer_destroy(&w);
    return rc;
}

static int read_npy(struct err *e)
{
    struct npy *f;
    int rc = npy_open(&f, in_dir("a.npy"), e);
    npy_close(&f);
    return rc;
}

static void npy(void **state)
{
    (void)state;
    starve(write_npy, 3);
    count_temporaries();
    starve(read_npy, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf),
        cmocka_unit_test(safetensors),
        cmocka_unit_test(npy),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
