/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the names in tokenizer.ggml.model and tokenizer.ggml.pre stand for: the regular expressions
 * of the models' own tokenizer.json as llama.cpp (llama-vocab.cpp) runs them, one after the other,
 * each on the words the one before has cut. Contractions ignore case in ASCII only. Those by upper
 * and lower case (tekken, gpt-4o) are the models' own; llama.cpp approximates them.
 */
#include <string.h>

#include "text/gguf.h"

#define WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ENDINGS "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
/* Llama 3 and its kin differ in how many digits make a word. */
#define WORDS_OF(digits) \
    ENDINGS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASES(ending, digits) \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ending "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*" ending "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

enum {
    IGNORE_MERGES = 1, ADD_BOS = 2
};

static const struct {
    const char *names;    /* separated by spaces, in spaces */
    const char *regex[6];
    int32_t flags;
} kinds[] = {
    { " gpt-2 phi-2 mpt olmo jais exaone4 gigachat a.x-4.0 mellum trillion granite-docling ",
      { WORDS }, 0 },
    { " default ",
      { "[\\p{P}\\$\\+<=>\\^~\\|]+", WORDS, "\\p{N}+", "[0-9][0-9][0-9]" }, 0 },
    { " llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
      { WORDS_OF("\\p{N}{1,3}") }, IGNORE_MERGES | ADD_BOS },
    { " dbrx smaug-bpe chatglm-bpe ", { WORDS_OF("\\p{N}{1,3}") }, 0 },
    { " glm4 ", { WORDS_OF("\\p{N}{1,3}") }, IGNORE_MERGES },
    { " qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 ",
      { WORDS_OF("\\p{N}") }, 0 },
    { " qwen35 ",
      { ENDINGS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+"
        "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, 0 },
    { " starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ",
      { "\\p{N}", WORDS }, 0 },
    { " falcon ", { "[\\p{P}\\$\\+<=>\\^~\\|`]+", WORDS, "[0-9][0-9][0-9]" }, 0 },
    { " tekken ", { CASES("", "\\p{N}") }, IGNORE_MERGES | ADD_BOS },
    { " gpt-4o llama4 kanana2 ", { CASES("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}") }, 0 },
    { " deepseek-v3 hunyuan-dense ",
      { "\\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
        "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, 0 },
};

static bool holds(const char *names, const char *name)
{
    const size_t n = strlen(name);

    if (strchr(name, ' ') != NULL)
        return false;
    for (const char *at = names; (at = strstr(at, name)) != NULL; at++)
        if (at[-1] == ' ' && at[n] == ' ')
            return true;
    return false;
}

static int32_t byte_kind(const char *pre, const char *where, qsae__gguf_kind *out)
{
    const char *const name = *pre == '\0' ? "default" : pre;

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (holds(kinds[i].names, name)) {
            *out = (qsae__gguf_kind){
                .bytes = true,
                .ignore_merges = (kinds[i].flags & IGNORE_MERGES) != 0,
                .add_bos = (kinds[i].flags & ADD_BOS) != 0,
                .bos = -1, .eos = -1, .unk = -1,
            };
            memcpy(out->regex, kinds[i].regex, sizeof out->regex);
            return QSAE_OK;
        }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: tokenizer.ggml.pre: pre-tokenizer \"%s\" is not "
                      "supported", where, pre);
}

int32_t qsae__gguf_kind_of(const char *model, const char *pre, const char *where,
                           qsae__gguf_kind *out)
{
    if (strcmp(model, "gpt2") == 0)
        return byte_kind(pre, where, out);
    if (strcmp(model, "llama") == 0) {
        *out = (qsae__gguf_kind){
            .pieces = true, .spaces = true, .prefix = true, .add_bos = true,
            .bos = 1, .eos = 2, .unk = 0,
        };
        return QSAE_OK;
    }
    if (strcmp(model, "gemma4") == 0) { /* SentencePiece whose merges are listed */
        *out = (qsae__gguf_kind){
            .spaces = true, .whole_newlines = true, .add_bos = true, .force_bos = true,
            .bos = -1, .eos = -1, .unk = -1, .regex = { "\\n+" },
        };
        return QSAE_OK;
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: tokenizer.ggml.model: \"%s\" is not supported "
                      "(llama, gpt2 and gemma4 are)", where, model);
}

/* Tokens that end a text, and others llama.cpp knows by their names. */
static const char *const control[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "\u2581<PRE>",
    "<|code_prefix|>", "<|prefix|>", "<\uff5cfim\u2581begin\uff5c>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "\u2581<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<\uff5cfim\u2581hole\uff5c>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "\u2581<MID>",
    "<|code_middle|>", "<|middle|>", "<\uff5cfim\u2581end\uff5c>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
};
static const char *const user_defined[] = {
    "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>",
};

static bool is_one_of(qsae__slice text, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == text.size && memcmp(list[i], text.data, text.size) == 0)
            return true;
    return false;
}

int32_t qsae__gguf_type_of(qsae__slice text, int32_t type, bool normal_s)
{
    if (text.size < 4 || text.size > 32 || memchr("<[_\xe2", text.data[0], 4) == NULL)
        return type;
    if (normal_s && text.size == 4 && memcmp(text.data, "</s>", 4) == 0)
        return QSAE__TOKEN_NORMAL;
    if (is_one_of(text, user_defined, sizeof user_defined / sizeof *user_defined))
        return QSAE__TOKEN_USER_DEFINED;
    if (is_one_of(text, control, sizeof control / sizeof *control))
        return QSAE__TOKEN_CONTROL;
    return type;
}
