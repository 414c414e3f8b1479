/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <string.h>

#include <qsae/model.h>

#include "tests.h"

struct good {
    const char *text, *canonical;
};

static const struct good good[] = {
    { "none", "none" },
    { "none:weights=bf16", "none:weights=bf16" },
    { "none@compute=bf16", "none@compute=bf16" },
    { "llm.int8", "llm.int8:threshold=6,rules=cuda" },
    { "llm.int8:threshold=0", "llm.int8:threshold=0,rules=cuda" },
    { "llm.int8:rules=torch,threshold=007.250", "llm.int8:threshold=7.25,rules=torch" },
    { "llm.int8:threshold=6.0", "llm.int8:threshold=6,rules=cuda" },
    { "llm.int8:outliers=batch", "llm.int8:threshold=6,rules=cuda" },
    { "llm.int8:outliers=row", "llm.int8:threshold=6,rules=cuda,outliers=row" },
    { "llm.int8:threshold=100", "llm.int8:threshold=100,rules=cuda" },
    { "nf4", "nf4:block=64,double=1,compute=model,rules=cuda" },
    { "fp4:block=4096,double=0", "fp4:block=4096,double=0,compute=model,rules=cuda" },
    { "nf4:compute=bf16,rules=torch,block=32", "nf4:block=32,double=1,compute=bf16,rules=torch" },
    { "rtn", "rtn:bits=8,axis=row,group=0,sym=1,arith=f32" },
    { "rtn:axis=tl", "rtn:bits=8,axis=tl,group=0,sym=1,arith=weight" },
    { "rtn:arith=f32,axis=tl,bits=6", "rtn:bits=6,axis=tl,group=0,sym=1,arith=f32" },
    { "rtn:bits=2,axis=row,group=128,sym=0", "rtn:bits=2,axis=row,group=128,sym=0,arith=f32" },
    { "rtn:axis=tensor", "rtn:bits=8,axis=tensor,group=0,sym=1,arith=f32" },
    { "nf4@layers=0-11", "nf4:block=64,double=1,compute=model,rules=cuda@layers=0-11" },
    { "nf4@layers=3", "nf4:block=64,double=1,compute=model,rules=cuda@layers=3-3" },
    { "nf4@skip=up_proj|down_proj|up_proj@only=mlp",
      "nf4:block=64,double=1,compute=model,rules=cuda@only=mlp@skip=down_proj|up_proj" },
    { "rtn:bits=4@compute=f32@layers=02-9",
      "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=2-9@compute=f32" },
    { "ggml:q4_k", "ggml:q4_k" },
    { "ggml:Q8_0@with=head|embed", "ggml:q8_0@with=embed|head" },
    { "ggml:iq4_nl@with=head", "ggml:iq4_nl@with=head" },
    { "ggml:q4_k,fallback=1@only=mlp", "ggml:q4_k,fallback=1@only=mlp" },
    { "ggml:q4_k,fallback=0", "ggml:q4_k" },
    { "rtn:bits=4@skip=/layers\\.(0|5)\\..*down/|/a\\/b/|q_proj",
      "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@skip=/a\\/b/|/layers\\.(0|5)\\..*down/|q_proj" },
    { "none+prune:sparsity=0.1750", "none+prune:sparsity=0.175,scope=tensor,ties=all" },
    { "rtn+prune:ties=first,scope=row,sparsity=0@layers=3",
      "rtn:bits=8,axis=row,group=0,sym=1,arith=f32@layers=3-3+prune:sparsity=0,scope=row,"
      "ties=first" },
    { "none+prune:scope=tl,sparsity=0.5", "none+prune:sparsity=0.5,scope=tl,ties=all" },
    { "none+prune:pattern=2:4", "none+prune:pattern=2:4" },
    { "none@layers=1+prune:match=77.8280", "none@layers=1-1+prune:match=77.828,scope=tensor,"
      "ties=all,tokens=0" },
    { "none+prune:match=(rtn:bits=6@only=/(a)b/),tokens=100000",
      "none+prune:match=(rtn:bits=6,axis=row,group=0,sym=1,arith=f32@only=/(a)b/),scope=tensor,"
      "ties=all,tokens=100000" },
    { "none+kv:k=q8_0", "none+kv:k=q8_0,v=none,sink=0" },
    { "none+kv:rot=1,v=int8,k=q4_0", "none+kv:k=q4_0,v=int8,sink=0,rot=1" },
    { "none+kv:rot=0,v=int8,k=q4_0", "none+kv:k=q4_0,v=int8,sink=0" },
    { "ggml:q6_k+kv:sink=4,v=turbo3,k=turbo4s", "ggml:q6_k+kv:k=turbo4s,v=turbo3,sink=4" },
    { "none+kv:k=int8,v=f16@compute=bf16", "none@compute=bf16+kv:k=int8,v=f16,sink=0" },
    { "control:null", "control:null" },
    { "control:floor@compute=bf16", "control:floor@compute=bf16" },
    { "control:shuffle@compute=f32", "control:shuffle@compute=f32" },
    { "control:null+kv:k=f16", "control:null+kv:k=f16,v=none,sink=0" },
    { "none@compute=f32", "none@compute=f32" },
    { "nf4@only=Q-Proj|layers.10.a_b", "nf4:block=64,double=1,compute=model,rules=cuda"
      "@only=Q-Proj|layers.10.a_b" },
    { "nf4:compute=f32@with=embed", "nf4:block=64,double=1,compute=f32,rules=cuda@with=embed" },
    { "nf4@only=/a\\/\\(b/", "nf4:block=64,double=1,compute=model,rules=cuda@only=/a\\/\\(b/" },
    { "rtn:group=2147483647", "rtn:bits=8,axis=row,group=2147483647,sym=1,arith=f32" },
    { "none+prune:match=1", "none+prune:match=1,scope=tensor,ties=all,tokens=0" },
    { "none+prune:pattern=1:64", "none+prune:pattern=1:64" },
    { "none+kv:v=turbo1,sink=999999999999999999",
      "none+kv:k=none,v=turbo1,sink=999999999999999999" },
    { "none+kv:k=turbo8s,v=iq4_nl,rot=1", "none+kv:k=turbo8s,v=iq4_nl,sink=0,rot=1" },
    /* parentheses of an expression are no parentheses, nor is a slash that a backslash keeps */
    { "mix(nf4@only=/\\/\\)\\(/)(fp4@with=head)(fp4@with=embed)",
      "mix(nf4:block=64,double=1,compute=model,rules=cuda@only=/\\/\\)\\(/)"
      "(fp4:block=64,double=1,compute=model,rules=cuda@with=head)"
      "(fp4:block=64,double=1,compute=model,rules=cuda@with=embed)" },
    { "mix(rtn:bits=3@layers=0)(ggml:q4_0@only=/b(|;)/@with=head)@compute=f32+kv:k=f16",
      "mix(rtn:bits=3,axis=row,group=0,sym=1,arith=f32@layers=0-0)"
      "(ggml:q4_0@only=/b(|;)/@with=head)@compute=f32+kv:k=f16,v=none,sink=0" },
    { "control:gauss(ggml:q4_0@only=mlp)", "control:gauss(ggml:q4_0@only=mlp)" },
    { "control:permute(rtn:bits=3+prune:pattern=1:2):seed=7@compute=bf16+kv:k=q4_0",
      "control:permute(rtn:bits=3,axis=row,group=0,sym=1,arith=f32+prune:pattern=1:2):seed=7"
      "@compute=bf16+kv:k=q4_0,v=none,sink=0" },
};

static void test_good(void **state)
{
    qsae_context *ctx = *state;
    for (int64_t i = 0; i < LENGTH(good); i++) {
        qsae__condition c, again;
        if (qsae__condition_parse(ctx, good[i].text, &c))
            fail_msg("%s: %s", good[i].text, qsae_error_message());
        assert_string_equal(c.canonical, good[i].canonical);
        assert_int_equal(strncmp(c.canonical, c.codec_canonical, strlen(c.codec_canonical)), 0);
        if (c.control == QSAE__CONTROL_NONE && c.n_parts == 0)
            assert_null(strchr(c.codec_canonical, '@'));
        /* The canonical form is its own canonical form. */
        assert_int_equal(qsae__condition_parse(ctx, c.canonical, &again), QSAE_OK);
        assert_string_equal(again.canonical, c.canonical);
        qsae__condition_free(ctx, &again);
        qsae__condition_free(ctx, &c);
    }
}

struct wrong {
    const char *text;
    int32_t status;
    const char *offset, *word, *allowed; /* parts of the message */
};

static const struct wrong wrong[] = {
    { "", QSAE_EINVAL, "offset 0", "missing codec", "none, llm.int8, nf4, fp4, rtn" },
    { "nf5", QSAE_EINVAL, "offset 0", "\"nf5\"", "none, llm.int8, nf4, fp4, rtn" },
    { "NF4", QSAE_EINVAL, "offset 0", "\"NF4\"", "nf4" },
    { "nf4:", QSAE_EINVAL, "offset 4", "missing option", "block, double, compute, rules" },
    { "nf4:blok=64", QSAE_EINVAL, "offset 4", "\"blok\"", "block, double, compute, rules" },
    { "nf4:block=48", QSAE_EINVAL, "offset 10", "\"48\"", "32, 64, 128" },
    { "nf4:block=16", QSAE_EINVAL, "offset 10", "\"16\"", "32, 64, 128" },
    { "nf4:block=8192", QSAE_EINVAL, "offset 10", "\"8192\"", "32, 64, 128" },
    { "nf4:block=", QSAE_EINVAL, "offset 10", "block \"\"", "32, 64, 128" },
    { "nf4:block", QSAE_EINVAL, "offset 4", "no value", "key=value" },
    { "nf4:block=64,block=64", QSAE_EINVAL, "offset 13", "repeated", "once" },
    { "nf4:block=64,", QSAE_EINVAL, "offset 13", "missing option", "block" },
    { "nf4:block=99999999999999999999", QSAE_EINVAL, "offset 10", "9999", "4096" },
    { "nf4:double=2", QSAE_EINVAL, "offset 11", "\"2\"", "0, 1" },
    { "nf4:compute=f64", QSAE_EINVAL, "offset 12", "\"f64\"", "model, f32, bf16, f16" },
    { "nf4:rules=gpu", QSAE_EINVAL, "offset 10", "\"gpu\"", "cuda, torch" },
    { "nf4,block=64", QSAE_EINVAL, "offset 3", "\",block=64\"", ":options" },
    { "none:bits=8", QSAE_EINVAL, "offset 5", "\"bits\"", "weights" },
    { "none@layers=0-3", QSAE_EINVAL, "offset 4", "selector", "@compute=" },
    { "none@with=head", QSAE_EINVAL, "offset 4", "selector", "@compute=" },
    { "nf4@with=norm", QSAE_EINVAL, "offset 9", "\"norm\"", "embed|head" },
    { "nf4@only=/(/", QSAE_EINVAL, "offset 9", "/(/", "parenthesis" },
    { "nf4@only=/a", QSAE_EINVAL, "offset 9", "regular expression", "/regex/" },
    { "nf4@only=//", QSAE_EINVAL, "offset 9", "regular expression", "/regex/" },
    { "llm.int8:threshold=-1", QSAE_EINVAL, "offset 19", "\"-1\"", "65504" },
    { "llm.int8:threshold=1e3", QSAE_EINVAL, "offset 19", "\"1e3\"", "65504" },
    { "llm.int8:threshold=70000", QSAE_EINVAL, "offset 19", "\"70000\"", "65504" },
    { "llm.int8:threshold=0.00000001", QSAE_EINVAL, "offset 19", "0.00000001", "6e-8" },
    { "llm.int8:threshold=.5", QSAE_EINVAL, "offset 19", "\".5\"", "decimal" },
    { "llm.int8:threshold=nan", QSAE_EINVAL, "offset 19", "\"nan\"", "decimal" },
    { "rtn:bits=9", QSAE_EINVAL, "offset 9", "\"9\"", "2 to 8" },
    { "rtn:bits=1", QSAE_EINVAL, "offset 9", "\"1\"", "2 to 8" },
    { "rtn:axis=col", QSAE_EINVAL, "offset 9", "\"col\"", "row, column, tensor, tl" },
    { "rtn:axis=column,group=32", QSAE_EINVAL, "offset 0", "group", "axis=row" },
    { "rtn:group=-4", QSAE_EINVAL, "offset 10", "\"-4\"", "0 = the whole row" },
    { "nf4@", QSAE_EINVAL, "offset 4", "selector", "@layers=" },
    { "nf4@layer=1", QSAE_EINVAL, "offset 4", "\"layer\"", "@layers=" },
    { "nf4@layers=5-2", QSAE_EINVAL, "offset 11", "\"5-2\"", "FIRST-LAST" },
    { "nf4@layers=-2", QSAE_EINVAL, "offset 11", "\"-2\"", "FIRST-LAST" },
    { "nf4@layers=1@layers=2", QSAE_EINVAL, "offset 13", "repeated", "once" },
    { "nf4@only=", QSAE_EINVAL, "offset 9", "name \"\"", "attn, mlp" },
    { "nf4@only=mlp||attn", QSAE_EINVAL, "offset 13", "name \"\"", "attn, mlp" },
    { "nf4@skip=a/b", QSAE_EINVAL, "offset 9", "\"a/b\"", "q_proj" },
    { "nf4@compute=f16", QSAE_EINVAL, "offset 12", "\"f16\"", "f32, bf16" },
    { "nf4+", QSAE_EINVAL, "offset 4", "unknown part", "+prune, +kv" },
    { "nf4+prune", QSAE_EINVAL, "offset 4", "no options", "pattern=KEEP:OF" },
    { "nf4+prune:scope=row", QSAE_EINVAL, "offset 4", "prune", "one of" },
    { "nf4+prune:sparsity=0.5,match=3", QSAE_EINVAL, "offset 4", "prune", "one of" },
    { "nf4+prune:sparsity=1.5", QSAE_EINVAL, "offset 19", "\"1.5\"", "0 to 1" },
    { "nf4+prune:sparsity=0.5,tokens=9", QSAE_EINVAL, "offset 4", "prune", "match only" },
    { "nf4+prune:pattern=4:2", QSAE_EINVAL, "offset 18", "4:2", "KEEP:OF" },
    { "nf4+prune:pattern=2:4,scope=row", QSAE_EINVAL, "offset 4", "prune", "pattern alone" },
    { "nf4+prune:match=0.5", QSAE_EINVAL, "offset 16", "0.5", "at least 1" },
    { "nf4+prune:match=(nf4", QSAE_EINVAL, "offset 16", "(nf4", "(CONDITION)" },
    { "nf4+prune:match=(nf5)", QSAE_EINVAL, "offset 17", "nf5", "none, llm.int8" },
    { "nf4+prune:match=(none+prune:match=3)", QSAE_EINVAL, "offset 17", "match", "can be run" },
    { "nf4+prune:sparsity=0.1+prune:sparsity=0.1", QSAE_EINVAL, "offset 23", "repeated", "once" },
    { "nf4:block=64+kv:k=q9_0", QSAE_EINVAL, "offset 18", "q9_0", "q8_0" },
    { "none+kv:k=turbo9", QSAE_EINVAL, "offset 10", "turbo9", "turbo1" },
    { "none+kv:k=q8_0,rot=2", QSAE_EINVAL, "offset 19", "2", "0, 1" },
    { "none+kv:k=int8,v=turbo3,rot=1", QSAE_EINVAL, "offset 5", "kv", "q8_0" },
    { "none+kv:sink=1", QSAE_EINVAL, "offset 5", "kv", "k=CODE" },
    { "none+kv:k=q8_0,sink=-1", QSAE_EINVAL, "offset 20", "-1", "positions" },
    { "control", QSAE_EINVAL, "offset 0", "control", "control:gauss(SPEC)" },
    { "control:gauss", QSAE_EINVAL, "offset 13", "parentheses", "(CONDITION)" },
    { "control:gauss()", QSAE_EINVAL, "offset 14", "missing codec", "none, llm.int8" },
    { "control:gauss(none)", QSAE_EINVAL, "offset 14", "none", "a codec" },
    { "control:gauss(control:null)", QSAE_EINVAL, "offset 14", "control", "a codec" },
    { "control:gauss(nf4+kv:k=q8_0)", QSAE_EINVAL, "offset 14", "nf4", "a codec" },
    { "control:gauss(nf4)@layers=2", QSAE_EINVAL, "offset 19", "layers", "within" },
    { "control:gauss(nf4)+prune:pattern=2:4", QSAE_EINVAL, "offset 19", "prune", "once" },
    { "control:floor:seed=2", QSAE_EINVAL, "offset 0", "control", "none" },
    { "mix", QSAE_EINVAL, "offset 3", "parentheses", "(CONDITION)" },
    { "mix(nf4", QSAE_EINVAL, "offset 3", "parentheses", "(CONDITION)" },
    { "mix(none)", QSAE_EINVAL, "offset 4", "none", "a codec" },
    { "mix(nf4)(control:null)", QSAE_EINVAL, "offset 9", "control", "a codec" },
    { "mix(mix(nf4))", QSAE_EINVAL, "offset 4", "mix", "a codec" },
    { "control:gauss(mix(nf4))", QSAE_EINVAL, "offset 14", "mix", "a codec" },
    { "mix(nf4)@layers=2", QSAE_EINVAL, "offset 9", "layers", "within" },
    { "mix(nf4)+prune:pattern=2:4", QSAE_EINVAL, "offset 9", "prune", "once" },
    { "control:null@layers=0-1", QSAE_EINVAL, "offset 12", "selector", "@compute=" },
    { "ggml", QSAE_EINVAL, "offset 0", "ggml", "q4_k" },
    { "ggml:q4", QSAE_EINVAL, "offset 5", "\"q4\"", "q4_k" },
    { "ggml:q4_k,fallback=2", QSAE_EINVAL, "offset 19", "\"2\"", "0, 1" },
    { "ggml:q4_k,block=2", QSAE_EINVAL, "offset 10", "block", "fallback" },
    { "ggml:f16", QSAE_EINVAL, "offset 5", "\"f16\"", "q4_k" },
    { "ggml:iq2_xxs", QSAE_EUNSUPPORTED, "offset 5", "IQ2_XXS", "decoded only" },
    { "ggml:q4_0q4_0q4_0q4_0q4_0", QSAE_EINVAL, "offset 5", "q4_0q4_0q4_0q4_0q4_0", "q4_k" },
    { "ggml:q4_~", QSAE_EINVAL, "offset 5", "\"q4_~\"", "q4_k" },
    { "llm.int8:threshold=6.", QSAE_EINVAL, "offset 19", "\"6.\"", "decimal" },
    { "llm.int8:threshold=6.1.2", QSAE_EINVAL, "offset 19", "\"6.1.2\"", "decimal" },
    { "llm.int8:threshold=0.000000000000006", QSAE_EINVAL, "offset 19", "0006", "decimal" },
    { "llm.int8:threshold=", QSAE_EINVAL, "offset 19", "\"\"", "decimal" },
    { "rtn:group=2147483648", QSAE_EINVAL, "offset 10", "2147483648", "0 = the whole row" },
    { "nf4@layers", QSAE_EINVAL, "offset 4", "no value", "@selector=value" },
    { "nf4@layers=3-", QSAE_EINVAL, "offset 11", "\"3-\"", "FIRST-LAST" },
    { "nf4@layers=3-x", QSAE_EINVAL, "offset 11", "\"3-x\"", "FIRST-LAST" },
    { "nf4@layers=", QSAE_EINVAL, "offset 11", "layers \"\"", "FIRST-LAST" },
    { "nf4@only=a[b", QSAE_EINVAL, "offset 9", "\"a[b\"", "q_proj" },
    { "nf4@only=a{b", QSAE_EINVAL, "offset 9", "\"a{b\"", "q_proj" },
    { "nf4@only=/a\\/", QSAE_EINVAL, "offset 9", "regular expression", "/regex/" },
    { "nf4@only=/a\\", QSAE_EINVAL, "offset 9", "regular expression", "/regex/" },
    { "none+prune:share=1", QSAE_EINVAL, "offset 11", "\"share\"", "sparsity, match" },
    { "none+prune:pattern=24", QSAE_EINVAL, "offset 19", "\"24\"", "KEEP:OF" },
    { "none+prune:pattern=x:4", QSAE_EINVAL, "offset 19", "\"x:4\"", "KEEP:OF" },
    { "none+prune:pattern=2:x", QSAE_EINVAL, "offset 19", "\"2:x\"", "KEEP:OF" },
    { "none+prune:pattern=0:4", QSAE_EINVAL, "offset 19", "\"0:4\"", "KEEP:OF" },
    { "none+prune:pattern=4:4", QSAE_EINVAL, "offset 19", "\"4:4\"", "KEEP:OF" },
    { "none+prune:pattern=2:65", QSAE_EINVAL, "offset 19", "\"2:65\"", "at most 64" },
    { "none+prune:pattern=2:4,ties=all", QSAE_EINVAL, "offset 5", "prune", "pattern alone" },
    { "none+prune:match=3,tokens=x", QSAE_EINVAL, "offset 26", "\"x\"", "0 = all" },
    { "none+prune:match=", QSAE_EINVAL, "offset 17", "\"\"", "at least 1" },
    { "none+prune:match=(none+prune:match=(nf4))", QSAE_EINVAL, "offset 18", "match",
      "can be run" },
    { "none+prune:sparsity=(nf4)", QSAE_EINVAL, "offset 20", "\"(\"", "0 to 1" },
    { "none+kv:k=turbo", QSAE_EINVAL, "offset 10", "\"turbo\"", "turbo1" },
    { "none+kv:k=turbo0", QSAE_EINVAL, "offset 10", "\"turbo0\"", "turbo1" },
    { "none+kv:k=turbo3x", QSAE_EINVAL, "offset 10", "\"turbo3x\"", "turbo1" },
    { "none+kv:k=turba3", QSAE_EINVAL, "offset 10", "\"turba3\"", "turbo1" },
    { "none+kv:k=f16,rot=1", QSAE_EINVAL, "offset 5", "kv", "q8_0" },
    { "none+kv", QSAE_EINVAL, "offset 5", "kv", "k=CODE" },
    { "none+kv:k=f16+kv:v=f16", QSAE_EINVAL, "offset 14", "repeated", "once" },
    { "control:gauss(nf4):seed=x", QSAE_EINVAL, "offset 24", "\"x\"", "whole number" },
    { "control:gauss(nf4@compute=f32)", QSAE_EINVAL, "offset 14", "nf4@compute", "a codec" },
    { "control:gauss(none+prune:match=(nf4))", QSAE_EINVAL, "offset 14", "match", "a codec" },
    { "control:gauss(none+prune:match=9)", QSAE_EINVAL, "offset 14", "match", "a codec" },
    { "control:gauss(nf4+kv:v=f16)", QSAE_EINVAL, "offset 14", "kv", "a codec" },
    { "control:gauss(nf4@only=/a\\", QSAE_EINVAL, "offset 13", "parentheses", "(CONDITION)" },
    { "control:null+prune:sparsity=0.5", QSAE_EINVAL, "offset 13", "leaves weights as they are",
      "+kv" },
    { "control:floor@compute=f32+prune:pattern=2:4", QSAE_EINVAL, "offset 26", "\"prune\"", "+kv" },
    { "control:shuffle+kv:k=f16+prune:match=(nf4)", QSAE_EINVAL, "offset 25", "\"prune\"", "+kv" },
    { "control:gauss:seed=1", QSAE_EINVAL, "offset 13", "\":seed=1\"", "(CONDITION)" },
    { "control:gauss@layers=1", QSAE_EINVAL, "offset 13", "\"@layers=1\"", "(CONDITION)" },
    { "control:gauss(mix(mix(mix(mix(nf4)))))", QSAE_EINVAL, "offset 30", "too many conditions",
      "4" },
    { "rtn:bits=x", QSAE_EINVAL, "offset 9", "\"x\"", "2 to 8" },
    { "mix(nf4@compute=f32)", QSAE_EINVAL, "offset 4", "nf4@compute", "a codec" },
    { "mix(none+prune:match=(nf4))", QSAE_EINVAL, "offset 4", "match", "a codec" },
    { "mix(none+prune:match=9)", QSAE_EINVAL, "offset 4", "match", "a codec" },
    { "mix(nf4+kv:k=f16)", QSAE_EINVAL, "offset 4", "kv", "a codec" },
    { "mix(nf4+kv:v=f16)", QSAE_EINVAL, "offset 4", "kv", "a codec" },
    { "none+prune:match=(none+prune:sparsity=(", QSAE_EINVAL, "offset 17", "parentheses",
      "(CONDITION)" },
    { "prune:sparsity=0.5", QSAE_EUNSUPPORTED, "offset 0", "prune", "rtn" },
    { "gptq", QSAE_EUNSUPPORTED, "offset 0", "gptq", "rtn" },
    { "awq:bits=4", QSAE_EUNSUPPORTED, "offset 0", "awq", "rtn" },
};

static void test_wrong(void **state)
{
    qsae_context *ctx = *state;
    for (int64_t i = 0; i < LENGTH(wrong); i++) {
        const struct wrong *w = &wrong[i];
        qsae__condition c;
        const int32_t status = qsae__condition_parse(ctx, w->text, &c);
        const char *m = qsae_error_message();
        if (status != w->status || !strstr(m, w->offset) || !strstr(m, w->word) ||
            !strstr(m, w->allowed))
            fail_msg("\"%s\": status %d, message: %s", w->text, status, m);
        assert_null(c.canonical);
    }
}

static void test_long(void **state)
{
    qsae__condition c;
    char *text = test_alloc(100001, 1);
    memset(text, 'a', 100000);
    memcpy(text, "nf4@only=", 9);
    assert_int_equal(qsae__condition_parse(*state, text, &c), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "more than 65536 bytes"));
    /* 4,097 parts of a mix, of which 4,096 are one */
    memcpy(text, "mix", 3);
    for (int i = 0; i < 4097; i++)
        memcpy(text + 3 + 5 * i, "(fp4)", 5);
    text[3 + 5 * 4097] = 0;
    assert_int_equal(qsae__condition_parse(*state, text, &c), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "at most 4096 conditions"));
    text[3 + 5 * 4096] = 0;
    assert_int_equal(qsae__condition_parse(*state, text, &c), QSAE_OK);
    assert_int_equal(c.n_parts, 4096);
    qsae__condition_free(*state, &c);
    /* 65 names, then 64 */
    memcpy(text, "nf4@only=", 9);
    char *at = text + 9;
    for (int i = 0; i < 65; i++)
        at += sprintf(at, "%sn%d", i ? "|" : "", i);
    assert_int_equal(qsae__condition_parse(*state, text, &c), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "64 names"));
    *strrchr(text, '|') = 0;
    assert_int_equal(qsae__condition_parse(*state, text, &c), QSAE_OK);
    qsae__condition_free(*state, &c);
    test_release(text);
}

static bool selects(const qsae__condition *c, int64_t layer, const char *module, const char *group)
{
    char path[100];
    snprintf(path, sizeof path, "model.layers.%d.%s.%s", (int)layer,
             strcmp(group, "attn") ? group : "self_attn", module);
    const qsae__place place = { layer, path, module, group };
    return qsae__condition_selects(c, &place);
}

static void test_selects(void **state)
{
    qsae_context *ctx = *state;
    qsae__condition c;
    assert_int_equal(qsae__condition_parse(ctx, "nf4", &c), QSAE_OK);
    assert_true(selects(&c, 0, "q_proj", "attn"));
    assert_true(selects(&c, 100, "down_proj", "mlp"));
    assert_false(selects(&c, -1, "lm_head", "head"));
    assert_false(selects(&c, -1, "embed_tokens", "embed"));
    qsae__condition_free(ctx, &c);

    assert_int_equal(qsae__condition_parse(ctx, "nf4@layers=2-3@only=mlp|o_proj@skip=up_proj", &c),
                     QSAE_OK);
    assert_false(selects(&c, 1, "down_proj", "mlp"));
    assert_true(selects(&c, 2, "down_proj", "mlp"));
    assert_true(selects(&c, 3, "o_proj", "attn"));
    assert_false(selects(&c, 3, "proj", "attn"));
    assert_false(selects(&c, 3, "q_proj", "attn"));
    assert_false(selects(&c, 3, "up_proj", "mlp"));
    assert_false(selects(&c, 4, "down_proj", "mlp"));
    qsae__condition_free(ctx, &c);

    assert_int_equal(qsae__condition_parse(ctx, "none", &c), QSAE_OK);
    assert_false(selects(&c, 0, "q_proj", "attn"));
    qsae__condition_free(ctx, &c);

    assert_int_equal(qsae__condition_parse(ctx, "none@with=head@only=self_attn.v_proj|"
                                           "/layers\\.[13]\\.mlp/+prune:sparsity=0.5", &c),
                     QSAE_OK);
    assert_true(selects(&c, 1, "up_proj", "mlp"));
    assert_false(selects(&c, 2, "up_proj", "mlp"));
    assert_false(selects(&c, 13, "up_proj", "mlp"));
    assert_true(selects(&c, 2, "v_proj", "attn"));
    assert_false(selects(&c, 2, "q_proj", "attn"));
    assert_true(selects(&c, -1, "lm_head", "head"));
    assert_false(selects(&c, -1, "embed_tokens", "embed"));
    qsae__condition_free(ctx, &c);

    /* a whole path, and names longer than one or ending within a part of it */
    assert_int_equal(qsae__condition_parse(ctx, "nf4@only=model.layers.1.mlp.up_proj|p_proj|"
                                           "a.model.layers.2.mlp.up_proj", &c), QSAE_OK);
    assert_true(selects(&c, 1, "up_proj", "mlp"));
    assert_false(selects(&c, 2, "up_proj", "mlp"));
    assert_false(selects(&c, 11, "up_proj", "mlp"));
    qsae__condition_free(ctx, &c);
}

static const qsae__condition *part_at(const qsae__condition *c, int64_t layer, const char *module,
                                      const char *group)
{
    char path[100];
    snprintf(path, sizeof path, "model.layers.%d.%s", (int)layer, module);
    const qsae__place place = { layer, path, module, group };
    return qsae__condition_at(c, &place);
}

/* A matrix takes the first part that selects it; embedding and head those that name them. */
static void test_parts(void **state)
{
    qsae_context *ctx = *state;
    qsae__condition c;
    assert_int_equal(qsae__condition_parse(ctx, "mix(rtn:bits=8@only=down_proj@with=head)"
                                           "(nf4@layers=0-1)(fp4@only=mlp@with=embed|head)", &c),
                     QSAE_OK);
    assert_ptr_equal(part_at(&c, 0, "down_proj", "mlp"), &c.parts[0]);
    assert_ptr_equal(part_at(&c, 1, "q_proj", "attn"), &c.parts[1]);
    assert_ptr_equal(part_at(&c, 2, "up_proj", "mlp"), &c.parts[2]);
    assert_null(part_at(&c, 2, "q_proj", "attn"));
    assert_ptr_equal(part_at(&c, -1, "lm_head", "head"), &c.parts[0]);
    assert_ptr_equal(part_at(&c, -1, "embed_tokens", "embed"), &c.parts[2]);
    assert_true(c.with_embed && c.with_head);
    qsae__condition_free(ctx, &c);
    assert_int_equal(qsae__condition_parse(ctx, "nf4@layers=1", &c), QSAE_OK);
    assert_ptr_equal(part_at(&c, 1, "q_proj", "attn"), &c);
    assert_null(part_at(&c, 0, "q_proj", "attn"));
    qsae__condition_free(ctx, &c);
}

/* The control of a condition keeps its compute and cache; a control, a mix, a search and what
 * changes nothing have none. */
static void test_controls(void **state)
{
    static const char *const none[] = { "none", "none:weights=bf16", "control:null",
                                        "control:floor", "control:gauss(nf4)", "mix(nf4)",
                                        "none+prune:match=9", "none+prune:match=(nf4)" };
    qsae_context *ctx = *state;
    qsae__condition c;
    char *text;
    assert_int_equal(qsae__condition_parse(ctx, "rtn:bits=3@layers=2+prune:pattern=1:2"
                                           "@compute=f32+kv:k=f16", &c), QSAE_OK);
    assert_int_equal(qsae__condition_with_control(ctx, &c, QSAE__CONTROL_PERMUTE, &text), QSAE_OK);
    assert_string_equal(text, "control:permute(rtn:bits=3,axis=row,group=0,sym=1,arith=f32"
                        "@layers=2-2+prune:pattern=1:2)@compute=f32+kv:k=f16,v=none,sink=0");
    qsae__free(ctx, text);
    qsae__condition_free(ctx, &c);
    for (int64_t i = 0; i < LENGTH(none); i++) {
        assert_int_equal(qsae__condition_parse(ctx, none[i], &c), QSAE_OK);
        assert_int_equal(qsae__condition_with_control(ctx, &c, QSAE__CONTROL_GAUSS, &text),
                         QSAE_EINVAL);
        assert_null(text);
        assert_non_null(strstr(qsae_error_message(), c.canonical));
        assert_non_null(strstr(qsae_error_message(), "changes weights"));
        qsae__condition_free(ctx, &c);
    }
}

/* A condition found for a sparsity, and expressions that would run away. */
static void test_sparsity(void **state)
{
    qsae_context *ctx = *state;
    qsae__condition c, d;
    char *text;
    assert_int_equal(qsae__condition_parse(ctx, "none+prune:match=(nf4),scope=row", &c), QSAE_OK);
    assert_int_equal(qsae__condition_with_sparsity(ctx, &c, 0.1625, &text), QSAE_OK);
    assert_string_equal(text, "none+prune:sparsity=0.1625,scope=row,ties=all");
    assert_int_equal(qsae__condition_parse(ctx, text, &d), QSAE_OK);
    assert_true(d.prune.sparsity == 0.1625 && !d.prune_target);
    qsae__free(ctx, text);
    qsae__condition_free(ctx, &d);
    assert_int_equal(qsae__condition_with_sparsity(ctx, &c, 1.0 / 3, &text), QSAE_OK);
    assert_string_equal(text, "none+prune:sparsity=0.33333333333333,scope=row,ties=all");
    qsae__free(ctx, text);
    assert_int_equal(qsae__condition_with_sparsity(ctx, &c, 1, &text), QSAE_OK);
    assert_string_equal(text, "none+prune:sparsity=1,scope=row,ties=all");
    qsae__free(ctx, text);
    assert_int_equal(qsae__condition_with_sparsity(ctx, &c, 1.5, &text), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "1.5"));
    assert_int_equal(qsae__condition_with_sparsity(ctx, &c, -0.25, &text), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "-0.25"));
    qsae__condition_free(ctx, &c);

    assert_int_equal(qsae__condition_parse(ctx, "nf4@only=/(a*)*(a*)*(a*)*b/", &c), QSAE_OK);
    char path[2000];
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = 0;
    const qsae__place place = { 0, path, "x", "mlp" };
    assert_false(qsae__condition_selects(&c, &place));
    qsae__condition_free(ctx, &c);
}

static void test_values(void **state)
{
    qsae_context *ctx = *state;
    qsae__condition c;
    assert_int_equal(qsae__condition_parse(ctx, "fp4:compute=f16,rules=torch@compute=bf16", &c),
                     QSAE_OK);
    assert_int_equal(c.codec, QSAE__FP4);
    assert_int_equal(c.rules, QSAE__RULES_TORCH);
    assert_int_equal(c.compute, QSAE_F16);
    assert_int_equal(c.model_compute, QSAE_COMPUTE_BF16);
    assert_true(c.layer_first == 0 && c.layer_last == INT64_MAX);
    qsae__condition_free(ctx, &c);
    assert_int_equal(qsae__condition_parse(ctx, "llm.int8:threshold=6.1", &c), QSAE_OK);
    assert_true(c.threshold == 6.1f);
    qsae__condition_free(ctx, &c);
}

static int open_context(void **state)
{
    *state = test_context(NULL, 1);
    return 0;
}

static int close_context(void **state)
{
    qsae_context *ctx = *state;
    qsae_context_close(&ctx);
    return 0;
}

int run_condition(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),  cmocka_unit_test(test_wrong),  cmocka_unit_test(test_long),
        cmocka_unit_test(test_selects), cmocka_unit_test(test_sparsity),
        cmocka_unit_test(test_values), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_controls),
    };
    return cmocka_run_group_tests_name("codecs/condition", tests, open_context, close_context);
}
