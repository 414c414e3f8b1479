/* SPDX-License-Identifier: BSD-2-Clause */
/* Two tokenizer.json that spell one tokenizer differently, as versions of transformers save it, are
 * equal; two that give other ids are not. */
#include "text_test.h"

#include "text/tokenizer.h"

#define MARK "\xe2\x96\x81"
#define VOCAB "\"vocab\":{\"<u>\":0,\"a\":1,\"b\":2,\"ab\":3,\"" MARK "\":4,\"1\":5,\"x\":6}"
#define STRINGS "\"merges\":[\"a b\"]"
#define ADDED_A "{\"id\":6,\"content\":\"x\",\"special\":true,\"normalized\":false}"
#define ADDED_B "{\"id\":7,\"content\":\"y\",\"special\":false,\"normalized\":false}"
#define ALL(norm, pre, added, flags, merges) \
    "{\"version\":\"1.0\",\"added_tokens\":[" added "],\"normalizer\":" norm ",\"pre_tokenizer\":" \
    pre ",\"model\":{" flags "\"type\":\"BPE\"," VOCAB "," merges "}}"
#define PRE(pre) ALL("null", pre, ADDED_A, "", STRINGS)
#define FLAGS(flags) ALL("null", "null", ADDED_A, flags, STRINGS)
#define SEQUENCE(more) "{\"type\":\"Sequence\",\"pretokenizers\":[" more "]}"
#define SPLIT(pattern, behavior, invert) \
    "{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior "\",\"invert\":" \
    invert "}"
#define LEVEL(prefix, regex) \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"trim_offsets\":true," \
    "\"use_regex\":" regex "}"
#define GPT2 \
    "\"Regex\":\"'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+" \
    "|\\\\s+(?!\\\\S)|\\\\s+\""
#define QWEN \
    "\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\""
#define REPLACE(pattern) \
    "{\"type\":\"Replace\",\"pattern\":{" pattern "},\"content\":\"" MARK "\"}"
#define META(more) "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"" more "}"

static const struct {
    const char *a, *b;
    const char *differs; /* NULL = equal */
} pairs[] = {
    { FLAGS(""), FLAGS("\"dropout\":null,\"continuing_subword_prefix\":\"\",\"fuse_unk\":false,"),
      NULL },
    { FLAGS(""), ALL("null", "null", ADDED_A, "", "\"merges\":[[\"a\",\"b\"]]"), NULL },
    { FLAGS(""), ALL("{\"type\":\"Sequence\",\"normalizers\":[]}", SEQUENCE(""), ADDED_A, "",
                     STRINGS), NULL },
    { ALL("null", "null", ADDED_A "," ADDED_B, "", STRINGS),
      ALL("null", "null", ADDED_B "," ADDED_A, "", STRINGS), NULL },
    { PRE(LEVEL("false", "true")), PRE(SEQUENCE(LEVEL("false", "true"))), NULL },
    { PRE(LEVEL("false", "true")),
      PRE(SEQUENCE(SPLIT(GPT2, "Isolated", "false") "," LEVEL("false", "false"))), NULL },
    { PRE(SEQUENCE(SPLIT(QWEN, "Isolated", "false") "," LEVEL("false", "false"))),
      PRE(SEQUENCE(SPLIT(QWEN, "Removed", "true") "," LEVEL("false", "false"))), NULL },
    { PRE(SPLIT("\"String\":\"a b\"", "Isolated", "false")),
      PRE(SPLIT("\"Regex\":\"a b\"", "Isolated", "true")), NULL },
    { PRE("{\"type\":\"Digits\",\"individual_digits\":true}"),
      PRE(SPLIT("\"Regex\":\"\\\\p{N}\"", "Isolated", "false")), NULL },
    { PRE(META(",\"add_prefix_space\":true")),
      PRE(META(",\"prepend_scheme\":\"always\",\"split\":true")), NULL },
    { ALL(REPLACE("\"String\":\" \""), SPLIT("\"String\":\" \"", "MergedWithPrevious", "false"),
          ADDED_A, "", STRINGS),
      ALL(REPLACE("\"String\":\" \""), "null", ADDED_A, "", STRINGS), NULL },

    { PRE(LEVEL("true", "true")), PRE(LEVEL("false", "true")), "pre-tokenizer" },
    { PRE(LEVEL("false", "true")), PRE(LEVEL("false", "false")), "pre-tokenizer" },
    { PRE(LEVEL("true", "true")),
      PRE(SEQUENCE(SPLIT(GPT2, "Isolated", "false") "," LEVEL("true", "false"))),
      "pre-tokenizer" },
    { PRE(LEVEL("false", "true")),
      PRE(SEQUENCE(SPLIT(QWEN, "Isolated", "false") "," LEVEL("false", "false"))),
      "pre-tokenizer" },
    { PRE(SPLIT("\"String\":\"a.\"", "Isolated", "false")),
      PRE(SPLIT("\"Regex\":\"a.\"", "Isolated", "false")), "pre-tokenizer" },
    { PRE(SPLIT("\"Regex\":\"a+\"", "Isolated", "false")),
      PRE(SPLIT("\"Regex\":\"a+\"", "Removed", "true")), "pre-tokenizer" },
    { PRE(SPLIT("\"String\":\" \"", "MergedWithPrevious", "false")), PRE("null"),
      "pre-tokenizer" },
    { PRE("{\"type\":\"Digits\",\"individual_digits\":true}"),
      PRE("{\"type\":\"Digits\",\"individual_digits\":false}"), "pre-tokenizer" },
    { ALL("{\"type\":\"NFC\"}", "null", ADDED_A, "", STRINGS), FLAGS(""), "normalizer" },
    { FLAGS("\"unk_token\":\"<u>\","), FLAGS(""), "unknown characters" },
    { FLAGS("\"unk_token\":\"<u>\",\"fuse_unk\":true,"), FLAGS("\"unk_token\":\"<u>\","),
      "unknown characters" },
    { FLAGS("\"ignore_merges\":true,"), FLAGS(""), "merges" },
    { ALL("null", "null", ADDED_A "," ADDED_B, "", STRINGS),
      ALL("null", "null",
          "{\"id\":7,\"content\":\"y\",\"special\":false,\"lstrip\":true,\"normalized\":false},"
          ADDED_A, "", STRINGS), "added tokens" },
};

static void test_pairs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        for (int order = 0; order < 2; order++) {
            qsae_tokenizer *t[2] = { NULL, NULL };
            char why[256];
            int32_t status;
            for (int k = 0; k < 2; k++)
                if (test_open((k ^ order) == 0 ? pairs[i].a : pairs[i].b, &t[k]) != QSAE_OK)
                    fail_msg("pair %zu: %s", i, qsae_error_message());
            status = qsae__tokenizer_compare(t[0], t[1], why, sizeof why);
            if (status != (pairs[i].differs == NULL ? QSAE_OK : QSAE_EMISMATCH) ||
                (pairs[i].differs != NULL && strstr(why, pairs[i].differs) == NULL))
                fail_msg("pair %zu: %s (%s)", i, qsae_status_name(status), why);
            qsae_tokenizer_close(&t[0]);
            qsae_tokenizer_close(&t[1]);
        }
}

const struct CMUnitTest spelling_tests[] = {
    cmocka_unit_test(test_pairs),
};
const size_t n_spelling_tests = sizeof spelling_tests / sizeof *spelling_tests;
