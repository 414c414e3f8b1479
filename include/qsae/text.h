/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_H
#define QSAE_TEXT_H

#include <qsae/tensor.h>

QSAE_BEGIN_DECLS

/**
 * A tokenizer read from tokenizer.json, GPT-2's vocab.json and merges.txt, or a GGUF file.
 * Thread-safety: safe (encoding needs no lock).
 */
typedef struct qsae_tokenizer qsae_tokenizer;

/**
 * Reads a tokenizer.json (byte-fallback BPE in the Llama/Gemma style, byte-level BPE) and, where
 * the folder has one, tokenizer_config.json for the BOS, EOS and padding tokens; or the tokenizer
 * of GPT-2's vocab.json and merges.txt with the files beside them; or that of a GGUF file (models
 * "llama", "gpt2" and "gemma4": doc/tokenizer.md).
 * @param path  tokenizer.json, a GGUF file, or a folder: tokenizer.json counts first, then
 *              vocab.json with merges.txt, then a GGUF file
 * @return QSAE_ENOENT, QSAE_EFORMAT (file, key, expected, found), QSAE_EUNSUPPORTED (a component
 *         this library does not run is named), QSAE_EIO, QSAE_ENOMEM, QSAE_EINVAL
 */
QSAE_API int32_t qsae_tokenizer_open(qsae_context *context, const char *path, qsae_tokenizer **out);

/** Closes *tokenizer and NULLs it; corpora made with it stay usable. NULL is fine. */
QSAE_API void qsae_tokenizer_close(qsae_tokenizer **tokenizer);

/**
 * Encodes text.
 * @param text         UTF-8, [n_bytes], NUL bytes allowed; invalid UTF-8: QSAE_EFORMAT with offset
 * @param add_special  non-zero: apply the post-processor's template (BOS, EOS)
 * @param ids          [capacity] receives the ids; NULL if capacity is 0
 * @param n_ids        receives the number of ids, also when it exceeds capacity
 * @return QSAE_ESPACE if capacity is too small (ids is then untouched), QSAE_EINVAL, QSAE_EFORMAT,
 *         QSAE_ENOMEM
 */
QSAE_API int32_t qsae_tokenizer_encode(const qsae_tokenizer *tokenizer, const char *text,
                                       size_t n_bytes, int32_t add_special, int32_t *ids,
                                       int64_t capacity, int64_t *n_ids);

/**
 * The same for long texts.
 * @param cancel  ends the call soon after it is set, nothing written but 0 to n_ids; or NULL
 * @return as qsae_tokenizer_encode, or QSAE_ECANCELED
 */
QSAE_API int32_t qsae_tokenizer_encode_cancelable(const qsae_tokenizer *tokenizer,
                                                  const char *text, size_t n_bytes,
                                                  int32_t add_special,
                                                  const qsae_cancel_token *cancel, int32_t *ids,
                                                  int64_t capacity, int64_t *n_ids);

/**
 * Bytes a token stands for in running text (word-start marks as spaces, byte tokens as their byte,
 * special tokens by their name).
 * @param bytes, n_bytes  receive a view that belongs to the tokenizer
 * @return QSAE_ENOENT if the id is not in the vocabulary
 */
QSAE_API int32_t qsae_tokenizer_token(const qsae_tokenizer *tokenizer, int32_t id,
                                      const char **bytes, size_t *n_bytes);

typedef struct qsae_tokenizer_info {
    size_t struct_size;
    int64_t vocab;           /**< highest id + 1 */
    int32_t bos, eos, pad, unk; /**< ids, -1 if there is none */
    int32_t adds_bos;        /**< 1 if the template puts BOS in front */
    int32_t adds_eos;
    const char *hash;        /**< 32 hex digits: XXH3-128 of tokenizer.json, or of what GPT-2's
                                  files or a GGUF file say about their tokenizer */
} qsae_tokenizer_info;

/** Describes a tokenizer. info->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_tokenizer_get_info(const qsae_tokenizer *tokenizer,
                                         qsae_tokenizer_info *info);

/** 1 if the token is special (added_tokens[].special; control or unknown in GGUF), else 0. */
QSAE_API int32_t qsae_tokenizer_is_special(const qsae_tokenizer *tokenizer, int32_t id);

#define QSAE_BOS_DEFAULT 0     /**< chunk_start, or none if the tokenizer has no BOS */
#define QSAE_BOS_NONE 1        /**< no BOS anywhere */
#define QSAE_BOS_STREAM_START 2 /**< one BOS before the first document */
#define QSAE_BOS_DOC_START 3   /**< one BOS before each document that does not begin with it */
#define QSAE_BOS_CHUNK_START 4 /**< one BOS at the start of each chunk; documents carry none */
#define QSAE_BOS_CHUNK_REPLACE 5 /**< llama.cpp's: BOS before the first document, and in place of
                                      each chunk's first token */

/** "none", "stream_start", "doc_start", "chunk_start",
 * "chunk_replace"; NULL if unknown. Static storage. */
QSAE_API const char *qsae_bos_name(int32_t policy);

/** Number of a policy name, 0 ("default") or -1 if unknown. */
QSAE_API int32_t qsae_bos_from_name(const char *name);

#define QSAE_TEXT_DEFAULT 0 /**< by name: .jsonl, .ndjson = JSON lines; .npy = ids; else plain text.
                                 A name that ends in .zst, in any format: decompressed first */
#define QSAE_TEXT_PLAIN 1   /**< documents separated by <|endoftext|>, stripped of white space */
#define QSAE_TEXT_JSONL 2   /**< one JSON object per line */
#define QSAE_TEXT_IDS 3     /**< .npy: token ids (int32, int64, uint16, uint32); one document, or
                                 one per row where there are 2 axes */
#define QSAE_TEXT_WHOLE 4   /**< by name as above, but each file of plain text is one document as it
                                 is, without a line feed that ends it: llama.cpp's -f */

/* How documents become rows. The last three give other libraries' rows, id by id. */
#define QSAE_PACK_DEFAULT 0
#define QSAE_PACK_STREAM 1  /**< joined with nothing but the policy's BOS between, then cut */
#define QSAE_PACK_TL 2      /**< TransformerLens 3.1's tokenize_and_concatenate: EOS between
                                 documents, batches of 1000 documents cut on their own, the rest of
                                 each dropped. BOS chunk_start or none */
#define QSAE_PACK_SAELENS 3 /**< SAELens' activations store: BOS between documents, and at the start
                                 of each row that does not begin with it. BOS chunk_start
                                 (prepend_bos) or none (between documents only) */
#define QSAE_PACK_TL2 4     /**< TransformerLens 2's, which cuts the text of a batch into 20 pieces
                                 and takes all padding tokens out. BOS as with TL */

/** "stream", "tl", "saelens", "tl2"; NULL if unknown. Static storage. */
QSAE_API const char *qsae_pack_name(int32_t pack);

/** Number of a name, 0 ("default") or -1 if unknown. */
QSAE_API int32_t qsae_pack_from_name(const char *name);

typedef struct qsae_corpus_settings {
    size_t struct_size;
    const char *text_field;  /**< key of the text in JSON lines, where dots lead into objects if
                                  there is no such key; NULL = "text" */
    const char *separator;   /**< between documents of plain text; NULL = "<|endoftext|>" */
    int64_t context;         /**< tokens per chunk, >= 2; 0 = 512 */
    int64_t max_tokens;      /**< stop after the first chunk that reaches this many; 0 = all */
    int32_t bos_policy;      /**< QSAE_BOS_* */
    int32_t format;          /**< QSAE_TEXT_* */
    int32_t keep_tail;       /**< non-zero: a last, shorter chunk is kept (default: dropped) */
    int32_t cross_labels;    /**< non-zero: the last position of a chunk predicts the first token of
                                  the next one (default: it predicts nothing) */
    qsae_progress_callback progress;
    void *progress_cookie;
    qsae_cancel_token *cancel;
    int64_t stride;          /**< 0: chunks side by side. Else windows of `context` tokens, one
                                  every `stride` tokens, up to the end of the text (the last may be
                                  shorter): each token is a label once, in the first window that
                                  has it, so with the longest context. max_tokens then counts
                                  tokens of the text. 1..context (chunk_start: context - 1) */
    int64_t score_from;      /**< positions before it have no label; 0..context - 2 */
    const char *order;       /**< file of the documents to read, in that order: indices from 0, each
                                  at most once, as text (one per line) or .npy; NULL = all */
    const char *shuffle;     /**< seed in decimal: documents in the order of NumPy's
                                  default_rng(seed).shuffle; NULL = as they come */
    const char *const *where; /**< [n_where] what the metadata of JSON lines must say: "KEY=VALUE"
                                  or "KEY!=VALUE". Of several with one KEY and "=" any may hold,
                                  else all must. Dots lead into objects, a list needs one such
                                  entry; VALUE is a string, or a number, true, false or null. The
                                  strings are read during the call */
    int64_t n_where;
    int64_t documents_from;  /**< first document to read, counted from 0 in the order that order or
                                  shuffle make, empty ones and those where refuses included */
    int64_t documents_to;    /**< document to stop before; 0 = none */
    int32_t pack;            /**< QSAE_PACK_* */
    int32_t reserved;
} qsae_corpus_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_corpus_settings). */
QSAE_API void qsae_corpus_settings_init(qsae_corpus_settings *s, size_t size);

/**
 * Documents, tokenized and cut into chunks (specs: documents joined in order, cut every `context`
 * tokens). Thread-safety: safe for reading.
 */
typedef struct qsae_corpus qsae_corpus;

/**
 * Reads and tokenizes text. Memory: 24 bytes per token, 40 while it is read, and the metadata.
 * @param path  a file, or a folder (every regular file, by name in byte order, one document
 *              each for plain text without separators)
 * @return QSAE_ENOENT, QSAE_EFORMAT (file, line, key; a line whose values take more memory than 7
 *         bytes per byte and 768 KiB; a .zst file that grows to more than 256 times its bytes and
 *         768 KiB), QSAE_EINVAL (no document, or less than one chunk of text), QSAE_EIO,
 *         QSAE_ENOMEM, QSAE_ECANCELED
 */
QSAE_API int32_t qsae_corpus_open(qsae_context *context, qsae_tokenizer *tokenizer,
                                  const char *path, const qsae_corpus_settings *settings,
                                  qsae_corpus **out);

/**
 * A corpus of ids the caller has: rows of one length.
 * @param ids    [n_chunks, chunk], copied; each row is a document of its own
 * @param chunk  tokens of a row, >= 2
 * @return QSAE_EINVAL, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_corpus_open_ids(qsae_context *context, const int32_t *ids, int64_t n_chunks,
                                      int64_t chunk, qsae_corpus **out);

/** Closes *corpus and NULLs it; its arrays go with it. NULL is fine. */
QSAE_API void qsae_corpus_close(qsae_corpus **corpus);

typedef struct qsae_corpus_info {
    size_t struct_size;
    int64_t tokens;           /**< in the chunks; what windows share counts in each */
    int64_t stream_tokens;    /**< before cutting: tokens + dropped tail (windows: the text's) */
    int64_t documents;        /**< non-empty documents read */
    int64_t chunks;
    int64_t context;
    int64_t predicted_tokens; /**< positions that have a label */
    int32_t bos_policy;
    int32_t cross_labels;
    const char *token_hash;   /**< 32 hex digits: XXH3-128 of ids, chunk length, BOS, labels */
    int64_t stride;           /**< as in the settings */
    int64_t score_from;
    int64_t scored_bytes;     /**< of the labels' text in UTF-8; -1: not known (ids without text) */
    int64_t scored_words;     /**< of the labels' text: one per document's first token and one per
                                   run of white space (Python's len(re.split(r"\\s+", text))); -1 */
    int32_t pack;             /**< QSAE_PACK_* */
    int32_t reserved;
} qsae_corpus_info;

/** Describes a corpus. info->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_corpus_get_info(const qsae_corpus *corpus, qsae_corpus_info *info);

/**
 * Views of one chunk; all arrays have *n_tokens entries and belong to the corpus.
 * @param ids       token ids
 * @param labels    token each position predicts, -100 where it predicts nothing
 * @param document  document each token came from
 * @param n_tokens  tokens of the chunk: the context, fewer in a kept tail
 * Each of the four may be NULL.
 * @return QSAE_EINVAL (chunk out of range, corpus NULL)
 */
QSAE_API int32_t qsae_corpus_chunk(const qsae_corpus *corpus, int64_t chunk, const int32_t **ids,
                                   const int32_t **labels, const int64_t **document,
                                   int64_t *n_tokens);

typedef struct qsae_document_info {
    size_t struct_size;
    int64_t first_token;     /**< in the stream, before cutting */
    int64_t n_tokens;
    const char *source;      /**< file it came from */
    int64_t line;            /**< 1-based line (JSON lines) or index in the file (plain text) */
    const char *metadata;    /**< JSON object: the line without its text; "{}" for plain text */
} qsae_document_info;

/** Document `document` (0..documents-1). info->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_corpus_document(const qsae_corpus *corpus, int64_t document,
                                      qsae_document_info *info);

QSAE_END_DECLS

#endif
