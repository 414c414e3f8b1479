/* SPDX-License-Identifier: BSD-2-Clause */
/* Which experts a router takes: torch.topk's choice among equals, which is libstdc++'s. */
#include "model/top.h"

#include "model_test.h"

/* torch.topk's choice among equal values (torch 2.13 on a CPU; the last four by
 * libstdc++ 12). */
static void test_top(void **state)
{
    static const struct {
        const char *values; /* 'a' is 0 */
        int k, want[30];    /* ascending */
    } cases[] = {
        { "bbbbb", 2, { 2, 4 } },
        { "ccabbab", 3, { 0, 1, 6 } },
        { "bcbaccabbcabcbac", 4, { 1, 5, 9, 12 } },
        { "dddbcdcdcabcbcbdacaacbbbdcbddbaaacccddcc", 8, { 2, 7, 15, 24, 27, 28, 36, 37 } },
        { "abffacceaccbeebedbdcccfbfbefafacdebabfbdaefbfcbcafacdcafffaccbaeeabcffafbbfaaebdcbcdaafe"
          "cdfedaaddcdcfcddedddaabbfadcfcaaeeecdddd", 2, { 2, 3 } },
        { "alghjbhbgicdhjagheaijckdedcegkfjfjihiaidigakieeglkaebijhkghhhfebhkelhjkeahljiacjebillcll"
          "iccgijblaidkjeajledlejdefjaaelaikdlhfjdh", 8, { 1, 74, 83, 84, 87, 95, 104, 107 } },
        { "bbaaaabababaababbbabbbabaabbbaababaabbaabbaaabaaaabaaaabbbbabbbabbbaab", 1, { 0 } },
        /* by std::partial_sort, over a heap of four */
        { "tyrxrrsu}vzs}{|xvzwu|tz}rzwy{w{|{ttv{{}}zz{{yxzussz{rzwy}xw{{y|xytt}tsrx|yxyvrx{vvr{}"
          "y}rxw}uwxwt}v}r{tz|zvxuxuyv|trxy}w|zxutx{xyru|ysxy{|s{rryv{r}|tuw}zrtxyvsw{}s}vxz{rt{"
          "sw|{wx{}wy{vt{uvvrrxvyyvw{|wu{svx{|vyuuux|xrts}yxursyvyrryxs{t}vuyxsyvyussxxysxrwx{rv"
          "x",
          4, { 8, 12, 23, 38 } },
        /* every pivot cuts off two: std::nth_element gives up, and selects over a heap */
        { "D}J{:yAw4uYs=qXo=mOkZiTgEGYNTBHdO^RT:`Z;HNPRC@~|zxvtrpnljh7F"
          "aLCJAa7HX_M8E8WTCW:f@^KI?Cceb4E[K",
          30, { 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 31, 46, 47, 48,
                49, 50, 51, 52, 53, 54, 55, 56, 57, 65, 79, 86, 87, 88 } },
        { "=}?{ZyWw8u;s4q@obmTkdiRgT<[G7XXAEdZ7dJN6_TI`[V~|zxvtrpnljh5a"
          "AY:PU`TSA=T:[84QY_@bBD4C4Yc[@eTNV",
          30, { 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 21, 23, 33, 36, 46,
                47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 79, 86, 89 } },
        { "7}S{LyOweu^s:qdoWmekVi?gN6B@S5bWAM`ZVI=S95;@?6~|zxvtrpnljhAb"
          "B<PPTJDE^NfdN8=Z;PVUcU`Jb`K=<X6K`",
          30, { 1, 3, 5, 7, 8, 9, 11, 13, 14, 15, 17, 18, 19, 21, 23, 46,
                47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 70, 71, 80 } },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t n = (int64_t)strlen(cases[i].values);
        float p[256];
        int32_t at[256];
        for (int64_t j = 0; j < n; j++)
            p[j] = (float)(cases[i].values[j] - 'a');
        qsae__top(p, n, cases[i].k, at);
        for (int k = 0; k < cases[i].k; k++) {
            int below = 0;
            for (int j = 0; j < cases[i].k; j++)
                below += at[j] < at[k];
            assert_int_equal(at[k], cases[i].want[below]);
            assert_true(k == 0 || p[at[k - 1]] >= p[at[k]]);
        }
    }
    /* a permutation, NaN first, whatever the values */
    for (int seed = 0; seed < 2000; seed++) {
        float p[100];
        int32_t at[100];
        uint32_t s = (uint32_t)seed;
        bool seen[100] = { false };
        for (int j = 0; j < 100; j++) {
            s = s * 1664525u + 1013904223u;
            p[j] = s >> 28 == 7 ? NAN : (float)(s >> 24) * (float)(seed % 3);
        }
        const int n = 1 + seed % 100, k = 1 + seed % n;
        qsae__top(p, n, k, at);
        for (int j = 0; j < n; j++) {
            assert_true(at[j] >= 0 && at[j] < n && !seen[at[j]]);
            seen[at[j]] = true;
            for (int i = 0; i < k && j >= k; i++)
                assert_true(isnan(p[at[i]]) || p[at[i]] >= p[at[j]]);
        }
    }
}

const struct CMUnitTest top_tests[] = { cmocka_unit_test(test_top) };
const size_t n_top_tests = sizeof top_tests / sizeof top_tests[0];
