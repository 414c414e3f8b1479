/* SPDX-License-Identifier: BSD-2-Clause */
#include "amx_emulate.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "core/context.h"

#define TILES 8
#define ROWS 16
#define ROW 64 /* bytes */

/* The 64 bytes of LDTILECFG. */
struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

/* Palette 0: no tiles. */
static _Thread_local struct {
    struct config config;
    uint8_t tile[TILES][ROWS][ROW];
} file;

static atomic_llong count;
static struct sigaction before;

/* A decoded instruction: VEX prefix of three bytes, map 0F38, operands. */
struct instruction {
    uint8_t opcode, pp, vvvv, reg, rm;
    bool memory, sib;
    uint8_t *base;           /* address without the index */
    int64_t index;           /* scaled */
    const uint8_t *end;
};

static int64_t general(const ucontext_t *u, int number)
{
    static const int place[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15 };
    return u->uc_mcontext.gregs[place[number]];
}

static int64_t displacement(const uint8_t **p, int bytes)
{
    int32_t wide = 0;
    if (bytes == 1)
        wide = (int8_t)**p;
    else if (bytes == 4)
        memcpy(&wide, *p, 4);
    *p += bytes;
    return wide;
}

/* The memory operand behind ModRM (SDM volume 2, 2.1.5). */
static void decode_address(const ucontext_t *u, const uint8_t *p, int mod, bool x, bool b,
                           struct instruction *i)
{
    int base = i->rm & 7;
    int64_t address = 0;
    bool has_base = true;
    i->sib = base == 4;
    if (i->sib) {
        const uint8_t sib = *p++;
        const int index = (sib >> 3 & 7) + 8 * x;
        base = sib & 7;
        if (index != 4)
            i->index = (int64_t)((uint64_t)general(u, index) << (sib >> 6));
    }
    const bool relative = mod == 0 && base == 5 && !i->sib;
    if (mod == 0 && base == 5)
        has_base = false;
    address = displacement(&p, mod == 1 ? 1 : mod == 2 || !has_base ? 4 : 0);
    if (has_base)
        address += general(u, base + 8 * b);
    if (relative)
        address += (int64_t)(intptr_t)p;
    i->base = (uint8_t *)(intptr_t)address; /* NOLINT */
    i->end = p;
}

static bool decode(const ucontext_t *u, struct instruction *i)
{
    const uint8_t *const p = (const uint8_t *)(intptr_t)u->uc_mcontext.gregs[REG_RIP];
    memset(i, 0, sizeof *i);
    if (p[0] != 0xc4 || (p[1] & 31) != 2 || (p[2] & 0x84)) /* VEX, 0F38, W0, L0 */
        return false;
    const bool r = !(p[1] & 0x80), x = !(p[1] & 0x40), b = !(p[1] & 0x20);
    i->pp = p[2] & 3;
    i->vvvv = ~(p[2] >> 3) & 15;
    i->opcode = p[3];
    i->reg = (p[4] >> 3 & 7) + 8 * r;
    i->rm = p[4] & 7;
    i->memory = p[4] >> 6 != 3;
    i->end = p + 5;
    if (i->memory)
        decode_address(u, p + 5, p[4] >> 6, x, b, i);
    else
        i->rm = i->rm + 8 * b;
    return true;
}

static bool tile_ok(int t)
{
    return file.config.palette == 1 && t < TILES && file.config.rows[t] > 0 &&
           file.config.bytes[t] % 4 == 0;
}

static bool load_config(const uint8_t *p)
{
    struct config c;
    memcpy(&c, p, sizeof c);
    if (c.palette > 1)
        return false;
    for (int t = 0; c.palette && t < 16; t++) {
        if (t < 14 && c.reserved[t])
            return false;
        if (c.rows[t] > (t < TILES ? ROWS : 0) || c.bytes[t] > (t < TILES ? ROW : 0) ||
            !c.rows[t] != !c.bytes[t])
            return false;
    }
    memset(&file, 0, sizeof file);
    if (c.palette)
        file.config = c;
    return true;
}

static bool move(const struct instruction *i, bool store)
{
    const int t = i->reg;
    if (!i->memory || !i->sib || i->vvvv || !tile_ok(t) || file.config.start_row)
        return false;
    if (!store)
        memset(file.tile[t], 0, sizeof file.tile[t]);
    uint8_t *p = i->base;
    for (int r = 0; r < file.config.rows[t]; r++, p += i->index) {
        if (store)
            memcpy(p, file.tile[t][r], file.config.bytes[t]);
        else
            memcpy(file.tile[t][r], p, file.config.bytes[t]);
    }
    return true;
}

/* One row of TDPBF16PS: even and odd products of each pair chained by fused multiply-adds from
 * zero, their sum added to c. a: a row of src1, w: src2. Called with FTZ and DAZ set. */
__attribute__((noinline, target("avx2,fma")))
static void row_bf16(const uint8_t *a, uint8_t (*w)[ROW], int groups, uint8_t *c)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000u);
    for (int n = 0; n < ROW; n += 32) {
        __m256 even = _mm256_setzero_ps(), odd = even;
        for (int k = 0; k < groups; k++) {
            int32_t pair;
            memcpy(&pair, a + 4 * k, 4);
            const __m256i x = _mm256_set1_epi32(pair);
            const __m256i y = _mm256_loadu_si256((const __m256i *)(const void *)(w[k] + n));
            even = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
                                   _mm256_castsi256_ps(_mm256_slli_epi32(y, 16)), even);
            odd = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(x, high)),
                                  _mm256_castsi256_ps(_mm256_and_si256(y, high)), odd);
        }
        float *const out = (float *)(void *)(c + n);
        _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), _mm256_add_ps(even, odd)));
    }
}

/* One row of TDPB[SU][SU]D: sums modulo 2^32. The prefix says which codes are signed. */
static void row_s8(const uint8_t *a, uint8_t (*w)[ROW], int groups, bool a_signed, bool w_signed,
                   uint8_t *c)
{
    for (int n = 0; n < ROW; n += 4) {
        uint32_t sum;
        memcpy(&sum, c + n, 4);
        for (int k = 0; k < 4 * groups; k++) {
            const uint8_t x = a[k], y = w[k / 4][n + k % 4];
            sum += (uint32_t)((a_signed ? (int8_t)x : x) * (w_signed ? (int8_t)y : y));
        }
        memcpy(c + n, &sum, 4);
    }
}

static bool multiply(const struct instruction *i)
{
    const int c = i->reg, a = i->rm, w = i->vvvv;
    const struct config *const f = &file.config;
    if (i->memory || !tile_ok(c) || !tile_ok(a) || !tile_ok(w) || c == a || c == w || a == w ||
        f->rows[c] != f->rows[a] || f->bytes[c] != f->bytes[w] || f->bytes[a] / 4 != f->rows[w] ||
        (i->opcode == 0x5c && i->pp != 2))
        return false;
    const unsigned mxcsr = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* FTZ, DAZ, to nearest, nothing trapped; the manual: MXCSR is not used */
    for (int m = 0; m < f->rows[c]; m++) {
        uint8_t *const out = file.tile[c][m];
        if (i->opcode == 0x5c)
            row_bf16(file.tile[a][m], file.tile[w], f->bytes[a] / 4, out);
        else
            row_s8(file.tile[a][m], file.tile[w], f->bytes[a] / 4, i->pp & 2, i->pp & 1, out);
        memset(out + f->bytes[c], 0, ROW - f->bytes[c]);
    }
    _mm_setcsr(mxcsr);
    return true;
}

/* pp: 0 none, 1 66, 2 F3, 3 F2. */
static bool execute(const struct instruction *i)
{
    switch (i->opcode) {
    case 0x49:
        if (i->vvvv)
            return false;
        if (i->pp == 0 && i->memory && i->reg == 0) /* LDTILECFG */
            return load_config(i->base + i->index);
        if (i->pp == 1 && i->memory && i->reg == 0) { /* STTILECFG */
            memcpy(i->base + i->index, &file.config, sizeof file.config);
            return true;
        }
        if (i->pp == 0 && !i->memory && i->reg == 0 && i->rm == 0) { /* TILERELEASE */
            memset(&file, 0, sizeof file);
            return true;
        }
        if (i->pp == 3 && !i->memory && i->rm == 0 && tile_ok(i->reg)) { /* TILEZERO */
            memset(file.tile[i->reg], 0, sizeof file.tile[i->reg]);
            return true;
        }
        return false;
    case 0x4b: /* F2 TILELOADD, 66 TILELOADDT1, F3 TILESTORED */
        return i->pp != 0 && move(i, i->pp == 2);
    case 0x5c: /* F3 TDPBF16PS */
    case 0x5e: /* TDPBUUD, 66 TDPBUSD, F3 TDPBSUD, F2 TDPBSSD */
        return multiply(i);
    default:
        return false;
    }
}

static void on_sigill(int number, siginfo_t *info, void *context)
{
    ucontext_t *const u = context;
    struct instruction i;
    (void)info;
    if (decode(u, &i) && execute(&i)) {
        atomic_fetch_add(&count, 1);
        u->uc_mcontext.gregs[REG_RIP] = (greg_t)(intptr_t)i.end;
        return;
    }
    static const char text[] = "amx_emulate: not an AMX instruction that a CPU would carry out\n";
    const ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    signal(number, SIG_DFL); /* the instruction again, fatal now */
}

const char *amx_start(void)
{
    unsigned a, b, c, d = 0;
    const int32_t level = qsae__cpu_level();
    if (level == QSAE__LEVEL_AMX)
        return "cpu";
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    if (level < QSAE__LEVEL_AVX512 || (d >> 24 & 1))
        return NULL;
    struct sigaction s;
    memset(&s, 0, sizeof s);
    s.sa_sigaction = on_sigill;
    s.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &s, &before) == 0 ? "emulator" : NULL;
}

void amx_stop(void)
{
    if (qsae__cpu_level() != QSAE__LEVEL_AMX)
        sigaction(SIGILL, &before, NULL);
}

int64_t amx_count(void)
{
    return atomic_load(&count);
}
#else
const char *amx_start(void)
{
    return NULL;
}

void amx_stop(void)
{
}

int64_t amx_count(void)
{
    return 0;
}
#endif
