/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The roof: what the instructions alone reach (register loops of FMA, VDPBF16PS, VPDPBUSD, AMX
 * tiles), and how fast memory of several sizes is read. Every thread runs the same loop.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#if defined(__x86_64__)
#define CHAINS 24      /* independent sums: more than latency times issue width */
#define TURNS 200000

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bf16,avx512vnni")))

struct peak_job {
    qsae_context *ctx;
    int64_t turns;
    int32_t (*loop)(void *arg, int64_t tile, int32_t worker);
    const float *data;   /* [threads, count] */
    float *to;
    int64_t count;       /* a multiple of 64 */
};

/* The loops are assembly: a compiler may keep the sums in memory. Registers 0 and 1 are the
 * factors, 2 and on the sums. */
#define DO(op, r, n) op " %%" r "1, %%" r "0, %%" r #n "\n\t"
#define DO_12(op, r) \
    DO(op, r, 2) DO(op, r, 3) DO(op, r, 4) DO(op, r, 5) DO(op, r, 6) DO(op, r, 7) DO(op, r, 8) \
    DO(op, r, 9) DO(op, r, 10) DO(op, r, 11) DO(op, r, 12) DO(op, r, 13)
#define DO_24(op, r) \
    DO_12(op, r) DO(op, r, 14) DO(op, r, 15) DO(op, r, 16) DO(op, r, 17) DO(op, r, 18) \
    DO(op, r, 19) DO(op, r, 20) DO(op, r, 21) DO(op, r, 22) DO(op, r, 23) DO(op, r, 24) \
    DO(op, r, 25)
#define LOW "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
            "xmm10", "xmm11", "xmm12", "xmm13"
#define HIGH "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", \
             "xmm23", "xmm24", "xmm25"

/* CHAINS sums, each updated by `op` once a turn. first, second: bits of a factor's 32-bit part. */
#define LOOP_512(name, op, first, second) \
    AVX512 static int32_t name(void *arg, int64_t tile, int32_t worker) \
    { \
        int64_t turns = ((const struct peak_job *)arg)->turns; \
        (void)tile; \
        (void)worker; \
        __asm__ volatile("vpbroadcastd %1, %%zmm0\n\tvpbroadcastd %2, %%zmm1\n\t" \
                         "vpxord %%zmm2, %%zmm2, %%zmm2\n\t" COPY_ZERO \
                         "1:\n\t" DO_24(op, "zmm") "dec %0\n\tjnz 1b" \
                         : "+r"(turns) : "r"(first), "r"(second) : "cc", LOW, HIGH); \
        return QSAE_OK; \
    }
#define ZERO(n) "vmovdqa64 %%zmm2, %%zmm" #n "\n\t"
#define COPY_ZERO \
    ZERO(3) ZERO(4) ZERO(5) ZERO(6) ZERO(7) ZERO(8) ZERO(9) ZERO(10) ZERO(11) ZERO(12) ZERO(13) \
    ZERO(14) ZERO(15) ZERO(16) ZERO(17) ZERO(18) ZERO(19) ZERO(20) ZERO(21) ZERO(22) ZERO(23) \
    ZERO(24) ZERO(25)

LOOP_512(fma512_loop, "vfmadd231ps", 0x3F800346, 0x3F666666)
LOOP_512(bf16_loop, "vdpbf16ps", 0x3F813F82, 0x3F613F92)
LOOP_512(vnni_loop, "vpdpbusd", 0x3F813F82, 0x3F613F92)

/* 12 chains: 16 registers. */
__attribute__((target("avx2,fma"))) static int32_t fma256_loop(void *arg, int64_t tile,
                                                               int32_t worker)
{
    int64_t turns = 2 * ((const struct peak_job *)arg)->turns;
    (void)tile;
    (void)worker;
    __asm__ volatile("vzeroall\n\tvmovd %1, %%xmm0\n\tvbroadcastss %%xmm0, %%ymm0\n\t"
                     "vmovd %2, %%xmm1\n\tvbroadcastss %%xmm1, %%ymm1\n\t"
                     "1:\n\t" DO_12("vfmadd231ps", "ymm") "dec %0\n\tjnz 1b"
                     : "+r"(turns) : "r"(0x3F800346), "r"(0x3F666666) : "cc", LOW, "xmm14",
                       "xmm15");
    return QSAE_OK;
}

/* Eight tiles of 16 rows of 64 bytes: 0..3 sums, 4 and 5 left, 6 and 7 right operands. */
struct tile_config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define AMX __attribute__((target("amx-tile,amx-int8,amx-bf16")))
#define TILE_LOOP(name, instruction) \
    AMX static int32_t name(void *arg, int64_t tile, int32_t worker) \
    { \
        const struct peak_job *const j = arg; \
        struct tile_config config = { .palette = 1 }; \
        (void)tile; \
        for (int i = 0; i < 8; i++) { \
            config.row_bytes[i] = 64; \
            config.rows[i] = 16; \
        } \
        const float *const data = j->data + worker * j->count; \
        __asm__ volatile("ldtilecfg %0" ::"m"(config)); \
        __asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\t" \
                         "tilezero %%tmm2\n\ttilezero %%tmm3\n\t" \
                         "tileloadd (%0,%1,1), %%tmm4\n\ttileloadd 1024(%0,%1,1), %%tmm5\n\t" \
                         "tileloadd 2048(%0,%1,1), %%tmm6\n\ttileloadd 3072(%0,%1,1), %%tmm7" \
                         ::"r"(data), "r"((int64_t)64) : "memory"); \
        for (int64_t t = 0; t < j->turns; t++) \
            __asm__ volatile(instruction " %%tmm6, %%tmm4, %%tmm0\n\t" \
                             instruction " %%tmm7, %%tmm4, %%tmm1\n\t" \
                             instruction " %%tmm6, %%tmm5, %%tmm2\n\t" \
                             instruction " %%tmm7, %%tmm5, %%tmm3" ::); \
        __asm__ volatile("tilerelease" ::); \
        return QSAE_OK; \
    }
TILE_LOOP(amx_bf16_loop, "tdpbf16ps")
TILE_LOOP(amx_int8_loop, "tdpbssd")

/* Loads this thread's part, `turns` times, 256 bytes at once. */
__attribute__((target("avx2"))) static int32_t read_loop(void *arg, int64_t tile, int32_t worker)
{
    const struct peak_job *const j = arg;
    (void)worker;
    for (int64_t t = 0; t < j->turns; t++) {
        const float *x = j->data + tile * j->count;
        int64_t blocks = j->count / 64;
        __asm__ volatile("1:\n\tvmovups (%0), %%ymm0\n\tvmovups 32(%0), %%ymm1\n\t"
                         "vmovups 64(%0), %%ymm2\n\tvmovups 96(%0), %%ymm3\n\t"
                         "vmovups 128(%0), %%ymm4\n\tvmovups 160(%0), %%ymm5\n\t"
                         "vmovups 192(%0), %%ymm6\n\tvmovups 224(%0), %%ymm7\n\t"
                         "add $256, %0\n\tdec %1\n\tjnz 1b"
                         : "+r"(x), "+r"(blocks) : : "cc", "memory", LOW);
    }
    return QSAE_OK;
}

static int32_t copy_loop(void *arg, int64_t tile, int32_t worker)
{
    struct peak_job *const j = arg;
    (void)worker;
    for (int64_t t = 0; t < j->turns; t++)
        memcpy(j->to + tile * j->count, j->data + tile * j->count,
               (size_t)j->count * sizeof(float));
    return QSAE_OK;
}

static int32_t all_threads(void *arg)
{
    struct peak_job *const j = arg;
    return qsae__parallel(j->ctx, qsae_context_threads(j->ctx), j->loop, j);
}

static void instructions(const bench *b, qsae_context *ctx, struct peak_job *j)
{
    static const struct {
        const char *what;
        int32_t level;
        double work; /* operations of a turn */
        int32_t (*loop)(void *, int64_t, int32_t);
    } loops[] = {
        { "fma 256 bits", QSAE__LEVEL_AVX2, CHAINS * 16, fma256_loop },
        { "fma 512 bits", QSAE__LEVEL_AVX512, CHAINS * 32, fma512_loop },
        { "vdpbf16ps", QSAE__LEVEL_AVX512BF16, CHAINS * 64, bf16_loop },
        { "vpdpbusd", QSAE__LEVEL_AVX512BF16, CHAINS * 128, vnni_loop },
        { "tdpbf16ps", QSAE__LEVEL_AMX, 4 * 16384, amx_bf16_loop },
        { "tdpbssd", QSAE__LEVEL_AMX, 4 * 32768, amx_int8_loop },
    };
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++) {
        if (ctx->level < loops[i].level)
            continue;
        j->turns = b->smoke ? 100 : TURNS;
        j->loop = loops[i].loop;
        bench_rate(b, ctx, bench_time(b, all_threads, j),
                   1e-9 * loops[i].work * (double)j->turns * qsae_context_threads(ctx), "GOP/s",
                   loops[i].what, "%s", "\"from\": \"registers\"");
    }
}

static void memory(const bench *b, qsae_context *ctx, struct peak_job *j, int64_t most)
{
    static const int64_t kib[] = { 32, 512, 6 << 10, 256 << 10 };
    for (size_t i = 0; i < sizeof kib / sizeof kib[0]; i++) {
        j->count = qsae__min_i64(kib[i] << 8, most);
        j->turns = b->smoke ? 1 : qsae__max_i64(1, (int64_t)(1 << 18) / kib[i]);
        for (int copy = 0; copy < 2; copy++) {
            if (!copy && ctx->level < QSAE__LEVEL_AVX2)
                continue;
            j->loop = copy ? copy_loop : read_loop;
            bench_rate(b, ctx, bench_time(b, all_threads, j),
                       1e-9 * (4 << copy) * (double)j->count * (double)j->turns *
                           qsae_context_threads(ctx), "GB/s", copy ? "copy" : "read",
                       "\"kib_per_thread\": %lld", (long long)(j->count >> 8));
        }
    }
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "peak", argc, argv, "", "");
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        const int64_t most = b.smoke ? 1 << 14 : (int64_t)1 << 26;
        const int64_t n = most * b.threads[t];
        float *const data = bench_alloc(n, sizeof *data);
        struct peak_job j = { .ctx = ctx, .data = data, .count = 1024 };
        j.to = bench_alloc(n, sizeof *j.to);
        bench_normal(data, n, 1, 1);
        bench_normal_bf16((uint16_t *)data, 2 * 1024 * b.threads[t], 1, 1); /* for the tiles */
        memset(j.to, 1, (size_t)n * sizeof *j.to);
        instructions(&b, ctx, &j);
        memory(&b, ctx, &j, most);
        free(data);
        free(j.to);
        qsae_context_close(&ctx);
    }
    return 0;
}

#else
int main(void)
{
    return 77; /* no loops for this processor: skipped */
}
#endif
