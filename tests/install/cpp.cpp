// SPDX-License-Identifier: BSD-2-Clause
// A C++ user's program on the bundled model: every class of qsae.hpp, exceptions through C, moves.
// usage: cpp DATA FOLDER    DATA: examples/data; FOLDER: empty, to write in. Prints TAP.
#include <cmath>
#include <cstdio>
#include <fstream>

#if __cplusplus >= 202002L
#include <span>
#endif

#include <qsae/qsae.hpp>

namespace {

int number, failures;

void ok(bool good, const char *name)
{
    failures += !good;
    std::printf("%sok %d - %s\n", good ? "" : "not ", ++number, name);
}

/* The status that f throws, 0 if it throws none. */
template <class F>
std::int32_t status_of(F &&f)
{
    try {
        f();
    } catch (const qsae::error &e) {
        return e.what()[0] ? e.status() : 1;
    }
    return 0;
}

struct mine : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class F>
bool throws_mine(F &&f)
{
    try {
        f();
    } catch (const mine &e) {
        return std::string(e.what()) == "mine";
    }
    return false;
}

bool near(double a, double b) { return std::fabs(a - b) <= 1e-12 * std::fabs(b); }

void basics(const std::string &data)
{
    qsae::context a(1);
    ok(a.threads() == 1 && !a.cpu().empty() && !a.gemm().empty() && !a.blis().empty(), "context");
    ok(qsae::version_api() >> 16 == QSAE_API_VERSION_MAJOR && !qsae::version().empty() &&
           !qsae::cpu_best().empty(), "versions");
    ok(qsae::dtype_name(QSAE_BF16) == "BF16" && qsae::dtype_bits(QSAE_BF16) == 16 &&
           qsae::dtype_from_name("Q4_0") == QSAE_Q4_0 &&
           qsae::dtype_block(QSAE_Q4_0) == std::make_pair(std::int64_t{ 32 }, std::int64_t{ 18 }),
       "dtypes");
    std::int32_t layer = -1;
    ok(qsae::site_from_name("blocks.3.hook_resid_post", &layer) == QSAE_SITE_RESID_POST &&
           layer == 3 && std::string(qsae::site_name(QSAE_SITE_Z)) == "z" && !qsae::site_name(99),
       "sites");
    ok(qsae::bos_from_name(qsae::bos_name(QSAE_BOS_NONE)) == QSAE_BOS_NONE &&
           qsae::pack_from_name(qsae::pack_name(QSAE_PACK_TL)) == QSAE_PACK_TL, "policies");
    qsae::context b(std::move(a)), c(1);
    c = std::move(b);
    ok(!a.get() && !b.get() && c.get(), "handles move");
    try {
        qsae::weights w(c, data + "/none");
        ok(false, "an error");
    } catch (const qsae::error &e) {
        ok(e.status() == QSAE_ENOENT && std::string(e.name()) == "QSAE_ENOENT" && *e.meaning() &&
               std::string(e.what()).find("none") != std::string::npos, "an error");
    }
    int lines = 0;
    auto s = qsae::settings<qsae_context_settings>();
    s.threads = 1;
    s.log_level = QSAE_LOG_DEBUG;
    std::unique_ptr<qsae::sae> sae;
    {
        qsae::context logged(s, [&](std::int32_t, std::string_view text) {
            lines += !text.empty();
            throw mine("lost");
        });
        sae = std::make_unique<qsae::sae>(logged, data + "/tiny-gemma3-sae");
    }
    ok(sae->info().features == 1024 && lines >= 0, "a log function outlives its context object");
    const float three[] = { 1, 2, 3 };
    qsae::view<const float> v(three, 3);
    ok(v.count() == 3 && v[2] == 3 && qsae::rows(v, 3).n_rows == 1, "views");
#if __cplusplus >= 202002L
    ok(qsae::rows(std::span<const float>(three), 1).n_rows == 3, "std::span");
#endif
}

void weights(const qsae::context &c, const std::string &data, const std::string &folder)
{
    qsae::tensors t(c, data + "/tiny-gemma3");
    ok(t.count() > 50 && t.get_info(0).rank > 0, "tensors");
    const qsae::weights w(c, data + "/tiny-gemma3");
    ok(w.info().width == 128 && std::string(w.info().hash).size() == 32, "weights");
    const auto stored = w.matrix("model.layers.0.mlp.up_proj");
    const auto values = stored.decode();
    ok(values == t.matrix("model.layers.0.mlp.up_proj.weight").decode(), "matrices");
    const auto x = qsae::rows(values, stored.cols());
    qsae::quantizer q(c, "nf4:block=64");
    const auto m = q.encode(x);
    const auto e = m.error(x);
    ok(q.spec().find("nf4") == 0 && m.rows() == 384 && m.bytes() < 40000 && !m.fields().empty() &&
           e.frobenius_relative > 0.01 && e.frobenius_relative < 0.2, "a codec");
    ok(near(w.error(6 - 1, "nf4:block=64").frobenius_relative,
            w.error(6 - 1, "nf4:block=64", &w).frobenius_relative) && w.matrix_count() == 43,
       "errors of weights");
    ok(m.linear(qsae::rows({ values.data(), 256 }, 128)).size() == 2 * 384, "linear");
    ok(status_of([&] { m.linear(x, { values.data(), 3 }); }) == QSAE_EMISMATCH, "a short bias");
    const auto codes = qsae::int8_quantize(c, x, 6);
    ok(codes.codes.size() == values.size() && codes.scales.size() == 384, "int8 codes");
    ok(w.process("fold_ln").processing() == "fold_ln" && w.processing().empty(), "processing");
    int calls = 0;
    w.save("nf4", folder + "/saved", qsae::settings<qsae_save_settings>(),
           [&](std::int64_t, std::int64_t, std::string_view unit, std::string_view) {
               calls += unit == "tensors";
               return true;
           });
    ok(calls > 10 && std::string(qsae::weights(c, folder + "/saved").info(false).storage) ==
                         "bitsandbytes", "save");
    ok(throws_mine([&] {
           w.save("nf4", folder + "/not", qsae::settings<qsae_save_settings>(),
                  [](std::int64_t, std::int64_t, std::string_view, std::string_view) -> bool {
                      throw mine("mine");
                  });
       }) && !std::ifstream(folder + "/not/config.json"), "save ended by an exception");
}

void forward(const qsae::context &c, const std::string &data)
{
    const qsae::weights w(c, data + "/tiny-gemma3");
    const qsae::tokenizer t(c, data + "/tiny-gemma3");
    auto s = qsae::settings<qsae_model_settings>();
    s.condition = "rtn:bits=3";
    qsae::model m(w), q(w, s);
    ok(q.cost().bits_per_weight < 4 && m.info().layers == 6 && m.site_width(QSAE_SITE_Z) == 128 &&
           m.site_width(QSAE_SITE_MLP_POST, 5) == 384 && m.site("h.3") == QSAE_SITE_RESID_POST,
       "models");
    const auto ids = t.encode("Mia walked to the old house and opened the door.");
    ok(qsae::layout().size() > 300, "the table of its structs");
    ok(ids.size() > 5 && t.is_special(ids[0]) && t.info().bos == ids[0] && t.token(2) == "<bos>",
       "a tokenizer");
    const auto n = static_cast<std::int64_t>(ids.size());
    const qsae::sae sae(c, data + "/tiny-gemma3-sae");
    std::vector<float> x, xq;
    const auto keep = [](std::vector<float> &to) {
        return [&to](std::int32_t, std::int32_t, const qsae_rows &r) {
            const float *p = static_cast<const float *>(r.data);
            to.assign(p, p + r.n_rows * r.n_cols);
        };
    };
    qsae::pass p(ids, 1, n), pq(ids, 1, n);
    m.forward(p.observe(3, QSAE_SITE_RESID_POST, keep(x)).want_logits());
    q.forward(pq.observe(3, QSAE_SITE_RESID_POST, keep(xq)).want_logits());
    ok(x.size() == ids.size() * 128 && p.nll().size() == ids.size() &&
           p.logits().size() == ids.size() * 2048 && std::isnan(p.nll().back()), "a pass");

    const auto rows = qsae::rows(x, 128), rows_q = qsae::rows(xq, 128);
    const auto acts = sae.encode_sparse(rows), acts_q = sae.encode_sparse(rows_q);
    const auto y = sae.reconstruct(rows), y_q = sae.reconstruct(rows_q);
    std::vector<float> state;
    const auto dense = sae.encode(rows, &state);
    ok(sae.decode_sparse(acts) == y && sae.decode(qsae::rows(dense, 1024), state) == y,
       "sparse and dense activations");
    ok(sae.features("decoder_norm").size() == 1024, "figures of features");
    sae.set_prefix(1);
    ok(sae.reconstruct(rows) != y, "a prefix");
    sae.set_prefix(0);
    std::vector<float> same(x.size());
    auto out = qsae::rows(same, 128);
    const std::vector<qsae_feature_edit> none;
    sae.intervene(rows, none, 1, out);
    ok(same == x, "no edit changes nothing");

    auto fvu = qsae::metric::reconstruction(c, 128, 1024);
    fvu.update_reconstruction(rows, qsae::rows(y, 128), &acts);
    double r2 = 0, x2 = 0;
    for (std::size_t i = 0; i < x.size(); i++) {
        r2 += (x[i] - y[i]) * static_cast<double>(x[i] - y[i]);
        x2 += x[i] * static_cast<double>(x[i]);
    }
    ok(std::fabs(fvu.get_value("fvu_raw") / (r2 / x2) - 1) < 1e-6 &&
           fvu.feature_values("fire", 1024).size() == 1024 && fvu.kind() == "reconstruction",
       "reconstruction");
    auto drift = qsae::metric::drift(c, 128);
    const auto a = qsae::rows(y, 128), b = qsae::rows(y_q, 128);
    drift.update_drift(rows, rows_q, &a, &b);
    auto fs = qsae::settings<qsae_metric_settings>();
    fs.top = 2;
    auto survival = qsae::metric::features(c, 1024, fs);
    survival.update_features(acts, acts_q);
    ok(drift.get_value("P") > 0 && survival.get_value("active") > 0 &&
           survival.top(acts.indices[0], 0, 2).size() >= 1, "drift and survival");

    std::vector<std::int32_t> labels(ids.begin() + 1, ids.end());
    labels.push_back(-100);
    auto ce = qsae::metric::cross_entropy(c), ce2 = qsae::metric::cross_entropy(c);
    auto kl = qsae::metric::divergence(c), again = qsae::metric::divergence(c);
    const auto lr = qsae::rows(p.logits(), 2048), lq = qsae::rows(pq.logits(), 2048);
    const auto here = qsae::positions(1000, n);
    ce.update_cross_entropy(p.nll());
    ce2.update_cross_entropy(lr, labels, &here);
    ok(std::fabs(ce.get_value("ce") - ce2.get_value("ce")) < 1e-5, "cross-entropy, two ways");
    kl.update_divergence(lr, lq, labels);
    auto d = qsae::detail::sized<qsae_divergence_rows>();
    d.n = n;
    d.nll_r = p.nll().data();
    d.nll_q = pq.nll().data();
    again.update_divergence(d);
    ok(kl.get_value("kl_mean") > 0 &&
           std::fabs(kl.get_value("dce") - again.get_value("dce")) < 1e-5, "divergence");
    ce.merge(ce2);
    ok(ce.get_value("predicted") == 2 * (n - 1) &&
           status_of([&] { ce.merge(ce2); }) == QSAE_EMISMATCH, "merge, once");
    ok(ce.values().size() > 3, "all values");
    ok(status_of([&] { ce.get_value("nothing"); }) == QSAE_ENOENT, "no such value");
    ce.reset();
    ok(std::isnan(ce.get_value("ce")), "reset");
    auto edits = qsae::pass(ids, 1, n);
    m.forward(edits.edit(3, QSAE_SITE_RESID_POST, [&](std::int32_t, std::int32_t, qsae_rows &r) {
        sae.intervene(r, none, 0, r);
    }).labels(labels));
    ok(edits.nll().size() == ids.size() && edits.nll()[1] != p.nll()[1], "an editor");
    auto bad = qsae::pass(ids, 1, n);
    bad.observe(0, QSAE_SITE_RESID_PRE,
                [](std::int32_t, std::int32_t, const qsae_rows &) { throw mine("mine"); });
    ok(throws_mine([&] { m.forward(bad); }), "an exception in an observer");
    auto stopped = qsae::pass(ids, 1, n);
    stopped.progress([](std::int64_t, std::int64_t, std::string_view, std::string_view) {
        return false;
    });
    ok(status_of([&] { m.forward(stopped); }) == QSAE_ECANCELED, "a progress function stops");
    qsae::cancel_token token;
    token.cancel();
    auto canceled = qsae::pass(ids, 1, n);
    canceled.cancel(token);
    ok(status_of([&] { m.forward(canceled); }) == QSAE_ECANCELED, "a token cancels");
    token.reset();
    m.forward(canceled);
    ok(canceled.nll().size() == p.nll().size() && canceled.nll()[3] == p.nll()[3],
       "and the model is usable");
    ok(status_of([&] { qsae::pass(ids, 2, n); }) == QSAE_EINVAL, "ids of another shape");
}

void files(const qsae::context &c, const std::string &folder)
{
    auto ce = qsae::metric::cross_entropy(c), back = qsae::metric::cross_entropy(c);
    const std::vector<float> nll = { 1, 2, 3 };
    ce.update_cross_entropy(nll);
    ce.save(folder + "/ce");
    back.load(folder + "/ce");
    ok(near(back.get_value("ce"), 2), "save and load");

    std::vector<std::int32_t> tokens = { 0, 1, 2, 3, 4, 0, 3, 2 };
    std::vector<float> logits(3 * 5), other(3 * 5);
    for (std::size_t i = 0; i < logits.size(); i++) {
        logits[i] = static_cast<float>((i * 7) % 11) / 4;
        other[i] = static_cast<float>((i * 5) % 11) / 4;
    }
    qsae::logits_writer out(c, folder + "/base", 8, 5, tokens);
    out.add(qsae::rows(logits, 5));
    out.finish();
    const qsae::logits_reader in(c, folder + "/base");
    ok(in.info().rows == 3 && in.tokens(0)[3] == 3 && in.rows(0).size() == 15, "base logits");
    auto s = qsae::settings<qsae_metric_settings>();
    s.batch_rows = 8;
    auto report = qsae::metric::llama_cpp(c, s), direct = qsae::metric::llama_cpp(c, s);
    report.update_llama_cpp(in, 0, qsae::rows(other, 5));
    const std::vector<std::int32_t> labels = { 0, 3, 2 };
    direct.update_llama_cpp(qsae::rows(logits, 5), qsae::rows(other, 5), labels);
    bool equal = !report.values().empty();
    for (const auto &v : report.values())
        equal &= std::string(v.name) == "chunks" || std::isnan(v.value) ||
                 near(v.value, direct.get_value(v.name)) || v.value == direct.get_value(v.name);
    ok(equal && report.lines().size() == 1, "llama.cpp's report");
    ok(status_of([&] { qsae::sae_layers(c, folder); }) != 0, "no layers in an empty folder");
}

void audits(const qsae::context &c, const std::string &data, const std::string &folder)
{
    const std::string model = data + "/tiny-gemma3", text = data + "/eval.jsonl";
    const std::string sae = data + "/tiny-gemma3-sae";
    const char *conditions[] = { "rtn:bits=4" }, *saes[] = { sae.c_str() };
    auto s = qsae::settings<qsae_audit_settings>();
    s.model = model.c_str();
    s.text = text.c_str();
    s.conditions = conditions;
    s.n_conditions = s.n_saes = 1;
    s.saes = saes;
    s.context = 64;
    s.max_tokens = 1500;
    s.top_contexts = 1;
    int calls = 0;
    qsae::audit a(c, s, [&](std::int64_t, std::int64_t, std::string_view, std::string_view) {
        return ++calls > 0;
    });
    a.run();
    const std::string json = a.result();
    ok(calls > 0 && json.find("\"qsae-result\"") != std::string::npos, "an audit");
    std::vector<double> rate, mean, max;
    int lines = 0;
    a.features(0, [&](std::string_view line) { return lines += line[0] == '{', true; });
    ok(lines == 1024, "its features");
    ok(throws_mine([&] { a.features(0, [](std::string_view) -> bool { throw mine("mine"); }); }),
       "ended by an exception");
    ok(status_of([&] { a.plan(4.5); }) == QSAE_EINVAL, "no plan without a sweep");
    std::ofstream(folder + "/result.json") << json;
    const int32_t fit = status_of([&] {
        const qsae::predictor p(c, folder + "/result.json");
        const std::vector<double> v(3, 0.01), big(3, 1.0);
        ok(p.json().find('{') == 0 && p.run(v, v, big).second.size() == 3, "a predictor");
    });
    ok(fit == 0 || fit == QSAE_EINVAL, "a fit, or a reason why there is none");

    std::vector<std::string> states;
    for (std::int64_t i = 0; i < 2; i++) {
        states.push_back(folder + "/state" + std::to_string(i));
        auto part = s;
        part.shard_index = i;
        part.shard_count = 2;
        part.state = states.back().c_str();
        qsae::audit shard(c, part);
        shard.run();
    }
    const auto info = qsae::merge(c, states, folder + "/state");
    ok(info.gaps == 0 && info.chunks == info.measured_chunks && info.chunks > 20, "merged shards");

    const qsae::tokenizer t(c, model);
    auto cs = qsae::settings<qsae_corpus_settings>();
    cs.context = 64;
    const qsae::corpus corpus(c, t, text, cs);
    const auto chunk = corpus.chunk(0);
    ok(corpus.info().context == 64 && chunk.ids.size() == 64 && chunk.labels[0] == chunk.ids[1] &&
           corpus.document(chunk.document[0]).n_tokens > 0, "a corpus");
    ok(qsae::corpus::of_ids(c, chunk.ids, 32).info().chunks == 2, "a corpus of ids");
    const qsae::probes probes(c, t, data + "/probes.jsonl");
    int scored = 0;
    ok(status_of([&] {
           probes.run(qsae::model(qsae::weights(c, model)), [&](const qsae_probe_score &score) {
               return score.good < 0 && ++scored < 5;
           });
       }) == QSAE_ECANCELED && scored == 5 && probes.info().items == 300 &&
           probes.item(0).n_good > 0 && probes.tag(0), "probes");
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    const std::string data = argv[1], folder = argv[2];
    try {
        basics(data);
        const qsae::context c(1);
        weights(c, data, folder);
        forward(c, data);
        files(c, folder);
        audits(c, data, folder);
    } catch (const std::exception &e) {
        std::printf("not ok %d - %s\n", ++number, e.what());
        failures++;
    }
    std::printf("1..%d\n", number);
    return failures != 0;
}
