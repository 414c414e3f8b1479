// SPDX-License-Identifier: BSD-2-Clause
// llama-perplexity over logits from a file: its source is included as it is, and what it asks of
// the model is answered here. See llama_report.py.
//
// usage: report CONTEXT VOCAB LOGITS_R LOGITS_Q BASE
// LOGITS: f32 [chunks, context, vocab]. Writes BASE from the first, then prints the report of the
// second against it. Tokens are (position * 7 + 3 * chunk) % VOCAB.
#include SOURCE

#include <cstdlib>

static int n_ctx, n_vocab, n_chunk, at_chunk;
static std::vector<float> all;

static void read_logits(const char * path) {
    FILE * f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    all.resize(size_t(ftell(f)) / sizeof(float));
    rewind(f);
    if (fread(all.data(), sizeof(float), all.size(), f) != all.size()) {
        exit(1);
    }
    fclose(f);
    n_chunk = int(all.size() / (size_t(n_ctx) * n_vocab));
    at_chunk = -1;
}

const llama_model * llama_get_model(const llama_context *) { return nullptr; }
const llama_vocab * llama_model_get_vocab(const llama_model *) { return nullptr; }
int32_t llama_vocab_n_tokens(const llama_vocab *) { return n_vocab; }
bool llama_vocab_get_add_bos(const llama_vocab *) { return true; }
bool llama_vocab_get_add_eos(const llama_vocab *) { return false; }
llama_token llama_vocab_bos(const llama_vocab *) { return 1; }
uint32_t llama_n_ctx(const llama_context *) { return uint32_t(n_ctx); }
uint32_t llama_n_seq_max(const llama_context *) { return 1; }
uint32_t llama_n_batch(const llama_context *) { return uint32_t(n_ctx); }
llama_memory_t llama_get_memory(const llama_context *) { return nullptr; }
void llama_memory_clear(llama_memory_t, bool) { at_chunk++; }
int32_t llama_process(llama_context *, llama_process_type, llama_batch_ext *) { return 0; }
llama_rope_type llama_model_rope_type(const llama_model *) { return LLAMA_ROPE_TYPE_NONE; }
llama_batch_ext * llama_batch_ext_init(llama_context *) { return nullptr; }
llama_batch_ext * common_batch::get_sub_batch(int32_t, int32_t) { return nullptr; }
void llama_synchronize(llama_context *) {}
float * llama_get_logits_ith(llama_context *, int32_t i) {
    return all.data() + (size_t(at_chunk) * n_ctx + i) * n_vocab;
}

std::vector<llama_token> common_tokenize(const llama_context *, const std::string &, bool, bool) {
    std::vector<llama_token> tokens;
    for (int i = 0; i < n_ctx * n_chunk; i++) {
        tokens.push_back((i % n_ctx * 7 + i / n_ctx * 3) % n_vocab);
    }
    return tokens;
}

int main(int, char ** argv) {
    common_params params;
    n_ctx = atoi(argv[1]);
    n_vocab = atoi(argv[2]);
    params.n_ctx = params.n_batch = n_ctx;
    params.logits_file = argv[5];
    read_logits(argv[3]);
    perplexity(nullptr, params, n_ctx);
    read_logits(argv[4]);
    kl_divergence(nullptr, params);
    common_log_flush(common_log_main());
    return 0;
}
