// SPDX-License-Identifier: BSD-2-Clause
/**
 * @file
 * C++17 over qsae.h: handles that close themselves, exceptions instead of statuses, std::function
 * instead of callbacks with cookies. Header only; link libqsae. The C headers describe each call;
 * here is only what differs.
 *
 *  - A failing call throws qsae::error. Nothing is thrown through C: what a function of yours
 *    throws ends the call and is thrown again once C has returned. (Not from a log function: what
 *    that throws is lost.)
 *  - Functions that may stop a call return bool: false ends it with error(QSAE_ECANCELED).
 *  - Handles move and do not copy. A moved-from handle may only be destroyed or assigned to.
 *  - Settings are the C structs: auto s = qsae::settings<qsae_model_settings>(); s.compute = ...
 *    Pointers in them must live until the call returns. Progress functions are arguments of their
 *    own, in place of what the settings say about progress.
 *  - Strings and views that belong to a C handle are valid as long as the handle.
 *
 * Left out, as constants of the C headers say the same: qsae_status_count, qsae_metric_leaf,
 * qsae_metric_llama_line; qsae_tokenizer_encode, which is the cancelable one without a token.
 */
#ifndef QSAE_QSAE_HPP
#define QSAE_QSAE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <qsae/qsae.h>

namespace qsae {

/** A failed call. what() is the library's message. */
class error : public std::runtime_error {
public:
    error(std::int32_t status, const std::string &message)
        : std::runtime_error(message), status_(status) {}
    std::int32_t status() const noexcept { return status_; }
    /** "QSAE_EFORMAT", ... */
    const char *name() const noexcept { return qsae_status_name(status_); }
    /** What the status means in general. */
    const char *meaning() const noexcept { return qsae_status_message(status_); }

private:
    std::int32_t status_;
};

/** Pointer and length: of a vector, an array, std::span, or of two numbers. */
template <class T>
class view {
public:
    view() = default;
    view(T *data, std::size_t size) : data_(data), size_(size) {}
    template <class C, class = std::enable_if_t<
                           std::is_convertible_v<decltype(std::declval<C &>().data()), T *> &&
                           !std::is_same_v<std::decay_t<C>, view>>>
    view(C &&c) : data_(c.data()), size_(static_cast<std::size_t>(c.size())) {}
    T *data() const { return data_; }
    std::size_t size() const { return size_; }
    std::int64_t count() const { return static_cast<std::int64_t>(size_); }
    bool empty() const { return size_ == 0; }
    T &operator[](std::size_t i) const { return data_[i]; }
    T *begin() const { return data_; }
    T *end() const { return size_ ? data_ + size_ : data_; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/** Rows in the caller's memory, [n, columns] with stride columns: of f32 values. */
inline qsae_rows rows(view<const float> values, std::int64_t columns)
{
    return { sizeof(qsae_rows), const_cast<float *>(values.data()),
             columns > 0 ? values.count() / columns : 0, columns, columns, QSAE_F32, 0 };
}

/** The same of any dtype and stride. */
inline qsae_rows rows(const void *data, std::int64_t n, std::int64_t columns, std::int32_t dtype,
                      std::int64_t stride)
{
    return { sizeof(qsae_rows), const_cast<void *>(data), n, columns, stride, dtype, 0 };
}

/** Which tokens rows are; arrays stay the caller's. */
inline qsae_positions positions(std::int64_t first_token, std::int64_t n,
                                const std::int64_t *document = nullptr,
                                const std::uint8_t *mask = nullptr,
                                const std::int32_t *position = nullptr)
{
    return { sizeof(qsae_positions), first_token, document, position, mask, n };
}

using progress_function = std::function<bool(std::int64_t done, std::int64_t total,
                                             std::string_view unit, std::string_view phase)>;
using log_function = std::function<void(std::int32_t level, std::string_view message)>;
using observer = std::function<void(std::int32_t layer, std::int32_t site, const qsae_rows &rows)>;
using editor = std::function<void(std::int32_t layer, std::int32_t site, qsae_rows &rows)>;

namespace detail {

inline void check(std::int32_t status)
{
    if (status != QSAE_OK)
        throw error(status, qsae_error_message());
}

/* A function on the way through C: what it throws waits here. */
template <class F>
struct guarded {
    F function;
    std::exception_ptr thrown;
    bool stopped = false;

    template <class... A>
    std::int32_t call(A &&...arguments) noexcept
    {
        try {
            if constexpr (std::is_same_v<decltype(function(std::forward<A>(arguments)...)), bool>)
                stopped = !function(std::forward<A>(arguments)...);
            else
                function(std::forward<A>(arguments)...);
        } catch (...) {
            thrown = std::current_exception();
        }
        return thrown || stopped ? QSAE_ECANCELED : QSAE_OK;
    }
    void rethrow()
    {
        if (thrown)
            std::rethrow_exception(std::exchange(thrown, nullptr));
    }
    /* After the call that it was in. */
    void check(std::int32_t status)
    {
        rethrow();
        if (std::exchange(stopped, false) && status == QSAE_ECANCELED)
            throw error(status, "stopped by a function of the caller");
        detail::check(status);
    }
};

extern "C" {
inline std::int32_t qsae_hpp_progress(void *cookie, std::int64_t done, std::int64_t total,
                                      const char *unit, const char *phase)
{
    return static_cast<guarded<progress_function> *>(cookie)->call(done, total, unit, phase);
}
inline void qsae_hpp_log(void *cookie, std::int32_t level, const char *message)
{
    static_cast<guarded<log_function> *>(cookie)->call(level, message);
}
inline std::int32_t qsae_hpp_observe(void *cookie, std::int32_t layer, std::int32_t site,
                                     const qsae_rows *r)
{
    return static_cast<guarded<observer> *>(cookie)->call(layer, site, *r);
}
inline std::int32_t qsae_hpp_edit(void *cookie, std::int32_t layer, std::int32_t site, qsae_rows *r)
{
    return static_cast<guarded<editor> *>(cookie)->call(layer, site, *r);
}
inline std::int32_t qsae_hpp_line(void *cookie, const char *line, std::size_t n)
{
    return static_cast<guarded<std::function<bool(std::string_view)>> *>(cookie)->call(
        std::string_view(line, n));
}
inline std::int32_t qsae_hpp_score(void *cookie, const qsae_probe_score *score)
{
    return static_cast<guarded<std::function<bool(const qsae_probe_score &)>> *>(cookie)->call(
        *score);
}
}

inline void init(qsae_context_settings &s) { qsae_context_settings_init(&s, sizeof s); }
inline void init(qsae_corpus_settings &s) { qsae_corpus_settings_init(&s, sizeof s); }
inline void init(qsae_model_settings &s) { qsae_model_settings_init(&s, sizeof s); }
inline void init(qsae_save_settings &s) { qsae_save_settings_init(&s, sizeof s); }
inline void init(qsae_sae_settings &s) { qsae_sae_settings_init(&s, sizeof s); }
inline void init(qsae_metric_settings &s) { qsae_metric_settings_init(&s, sizeof s); }
inline void init(qsae_audit_settings &s) { qsae_audit_settings_init(&s, sizeof s); }
inline void init(qsae_probe_settings &s) { qsae_probe_settings_init(&s, sizeof s); }
inline void init(qsae_pass &s) { qsae_pass_init(&s, sizeof s); }

template <class S>
S sized()
{
    S s{};
    s.struct_size = sizeof s;
    return s;
}

template <class S>
void set_progress(S &s, guarded<progress_function> &p)
{
    if (p.function) {
        s.progress = qsae_hpp_progress;
        s.progress_cookie = &p;
    }
}

inline const char *c_string(const std::string &s) { return s.empty() ? nullptr : s.c_str(); }

/* An open handle, and the log function of its context, which may be called as long as it lives. */
template <class T, void (*Close)(T **)>
class handle {
public:
    handle() = default;
    handle(handle &&o) noexcept : p_(std::exchange(o.p_, nullptr)), keep_(std::move(o.keep_)) {}
    handle &operator=(handle &&o) noexcept
    {
        if (this != &o) {
            Close(&p_);
            p_ = std::exchange(o.p_, nullptr);
            keep_ = std::move(o.keep_);
        }
        return *this;
    }
    ~handle() { Close(&p_); }
    /** The C handle, for calls of your own; it stays this object's. */
    T *get() const noexcept { return p_; }
    const std::shared_ptr<void> &keep() const noexcept { return keep_; }

protected:
    explicit handle(std::shared_ptr<void> keep) : keep_(std::move(keep)) {}
    T **out() noexcept { return &p_; }
    T *p_ = nullptr;
    std::shared_ptr<void> keep_;
};

} // namespace detail

/** A settings struct, or a qsae_pass, with its defaults. */
template <class S>
S settings()
{
    S s;
    detail::init(s);
    return s;
}

inline std::string_view version() { return qsae_version(); }
inline std::uint32_t version_api() { return qsae_version_api(); }
/** The table of public structs, their members, and constants. */
inline std::vector<qsae_layout_entry> layout()
{
    std::vector<qsae_layout_entry> entries(static_cast<std::size_t>(qsae_layout_count()));
    for (std::size_t i = 0; i < entries.size(); i++) {
        entries[i].struct_size = sizeof entries[i];
        detail::check(qsae_layout_get(static_cast<std::int64_t>(i), &entries[i]));
    }
    return entries;
}
inline std::string_view cpu_best() { return qsae_cpu_best(); }
inline std::string_view dtype_name(std::int32_t dtype) { return qsae_dtype_name(dtype); }
inline std::int32_t dtype_bits(std::int32_t dtype) { return qsae_dtype_bits(dtype); }
inline std::int32_t dtype_from_name(const std::string &n)
{
    return qsae_dtype_from_name(n.c_str());
}
/** Elements and bytes of a block; {0, 0} if the dtype has none. */
inline std::pair<std::int64_t, std::int64_t> dtype_block(std::int32_t dtype)
{
    std::pair<std::int64_t, std::int64_t> b{ 0, 0 };
    qsae_dtype_block(dtype, &b.first, &b.second);
    return b;
}
/** NULL if unknown, as of the next two. */
inline const char *site_name(std::int32_t site) { return qsae_site_name(site); }
inline const char *bos_name(std::int32_t policy) { return qsae_bos_name(policy); }
inline const char *pack_name(std::int32_t pack) { return qsae_pack_name(pack); }
inline std::int32_t bos_from_name(const std::string &n) { return qsae_bos_from_name(n.c_str()); }
inline std::int32_t pack_from_name(const std::string &n) { return qsae_pack_from_name(n.c_str()); }
inline std::int32_t site_from_name(const std::string &n, std::int32_t *layer = nullptr)
{
    return qsae_site_from_name(n.c_str(), layer);
}

class cancel_token : public detail::handle<qsae_cancel_token, qsae_cancel_token_close> {
public:
    cancel_token() { detail::check(qsae_cancel_token_open(out())); }
    /** From any thread, and in signal handlers. */
    void cancel() noexcept { qsae_cancel_token_cancel(p_); }
    void reset() noexcept { qsae_cancel_token_reset(p_); }
};

class context : public detail::handle<qsae_context, qsae_context_close> {
public:
    explicit context(std::int32_t threads = 0) : context(with_threads(threads)) {}
    /** log is called from any thread, one at a time, as long as a handle of the context lives. */
    explicit context(qsae_context_settings s, log_function log = {})
    {
        if (log) {
            auto box = std::make_shared<detail::guarded<log_function>>();
            box->function = std::move(log);
            s.log = detail::qsae_hpp_log;
            s.log_cookie = box.get();
            keep_ = std::move(box);
        }
        detail::check(qsae_context_open(&s, out()));
    }
    std::int32_t threads() const { return qsae_context_threads(p_); }
    std::string_view cpu() const { return qsae_context_cpu(p_); }
    std::string_view gemm() const { return qsae_context_gemm(p_); }
    std::string_view blis() const { return qsae_context_blis(p_); }

private:
    static qsae_context_settings with_threads(std::int32_t threads)
    {
        auto s = settings<qsae_context_settings>();
        s.threads = threads;
        return s;
    }
};

class qmatrix : public detail::handle<qsae_qmatrix, qsae_qmatrix_close> {
public:
    std::int64_t rows() const { return qsae_qmatrix_rows(p_); }
    std::int64_t cols() const { return qsae_qmatrix_cols(p_); }
    std::uint64_t bytes() const { return qsae_qmatrix_bytes(p_); }
    void decode(qsae_rows out) const { detail::check(qsae_qmatrix_decode(p_, &out)); }
    /** [rows, cols] */
    std::vector<float> decode() const
    {
        std::vector<float> v(static_cast<std::size_t>(rows() * cols()));
        decode(qsae::rows(v, cols()));
        return v;
    }
    qsae_weight_error error(const qsae_rows &weight) const
    {
        auto e = detail::sized<qsae_weight_error>();
        detail::check(qsae_qmatrix_error(p_, &weight, &e));
        return e;
    }
    std::vector<qsae_field> fields() const
    {
        std::vector<qsae_field> all(static_cast<std::size_t>(qsae_qmatrix_field_count(p_)),
                                    detail::sized<qsae_field>());
        for (std::size_t i = 0; i < all.size(); i++)
            detail::check(qsae_qmatrix_field(p_, static_cast<std::int32_t>(i), &all[i]));
        return all;
    }
    /** [n, rows]; bias [rows] or empty. */
    std::vector<float> linear(const qsae_rows &x, view<const float> bias = {},
                              std::int32_t dtype = QSAE_F32) const
    {
        if (!bias.empty() && bias.count() != rows())
            throw qsae::error(QSAE_EMISMATCH, "bias: expected one value per row");
        std::vector<float> y(static_cast<std::size_t>(x.n_rows * rows()));
        qsae_rows out = qsae::rows(y, rows());
        detail::check(qsae_qmatrix_linear(p_, &x, bias.data(), dtype, &out));
        return y;
    }

private:
    using detail::handle<qsae_qmatrix, qsae_qmatrix_close>::handle;
    friend class tensors;
    friend class quantizer;
    friend class weights;
};

class tensors : public detail::handle<qsae_tensors, qsae_tensors_close> {
public:
    tensors(const context &c, const std::string &path) : handle(c.keep())
    {
        detail::check(qsae_tensors_open(c.get(), path.c_str(), out()));
    }
    std::int64_t count() const { return qsae_tensors_count(p_); }
    qsae_tensor_info get_info(std::int64_t i) const
    {
        auto info = detail::sized<qsae_tensor_info>();
        detail::check(qsae_tensors_get(p_, i, &info));
        return info;
    }
    qmatrix matrix(const std::string &name) const
    {
        qmatrix m(keep_);
        detail::check(qsae_tensors_matrix(p_, name.c_str(), m.out()));
        return m;
    }
};

class quantizer : public detail::handle<qsae_quantizer, qsae_quantizer_close> {
public:
    quantizer(const context &c, const std::string &spec) : handle(c.keep())
    {
        detail::check(qsae_quantizer_open(c.get(), spec.c_str(), out()));
    }
    std::string_view spec() const { return qsae_quantizer_spec(p_); }
    qmatrix encode(const qsae_rows &weight, std::int64_t heads = 0, bool strict = false) const
    {
        qmatrix m(keep_);
        detail::check(qsae_quantizer_encode(p_, &weight, heads, strict, m.out()));
        return m;
    }
};

struct int8_rows {
    std::vector<std::int8_t> codes;     /**< [n, columns] */
    std::vector<float> scales;          /**< [n] */
    std::vector<std::uint8_t> outlier;  /**< [columns] */
};

inline int8_rows int8_quantize(const context &c, const qsae_rows &x, float threshold)
{
    int8_rows r{ std::vector<std::int8_t>(static_cast<std::size_t>(x.n_rows * x.n_cols)),
                 std::vector<float>(static_cast<std::size_t>(x.n_rows)),
                 std::vector<std::uint8_t>(static_cast<std::size_t>(x.n_cols)) };
    detail::check(qsae_int8_quantize(c.get(), &x, threshold, r.codes.data(), r.scales.data(),
                                     r.outlier.data()));
    return r;
}

class tokenizer : public detail::handle<qsae_tokenizer, qsae_tokenizer_close> {
public:
    tokenizer(const context &c, const std::string &path) : handle(c.keep())
    {
        detail::check(qsae_tokenizer_open(c.get(), path.c_str(), out()));
    }
    /** cancel ends the encoding of a long text soon after it is set; NULL: none. */
    std::vector<std::int32_t> encode(std::string_view text, bool add_special = true,
                                     const cancel_token *cancel = nullptr) const
    {
        const auto *const token = cancel ? cancel->get() : nullptr;
        std::int64_t n = 0;
        std::int32_t st = qsae_tokenizer_encode_cancelable(p_, text.data(), text.size(),
                                                           add_special, token, nullptr, 0, &n);
        if (st != QSAE_OK && st != QSAE_ESPACE)
            detail::check(st);
        std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
        if (n > 0)
            detail::check(qsae_tokenizer_encode_cancelable(p_, text.data(), text.size(),
                                                           add_special, token, ids.data(), n, &n));
        return ids;
    }
    std::string_view token(std::int32_t id) const
    {
        const char *bytes = nullptr;
        std::size_t n = 0;
        detail::check(qsae_tokenizer_token(p_, id, &bytes, &n));
        return { bytes, n };
    }
    bool is_special(std::int32_t id) const { return qsae_tokenizer_is_special(p_, id) != 0; }
    qsae_tokenizer_info info() const
    {
        auto info = detail::sized<qsae_tokenizer_info>();
        detail::check(qsae_tokenizer_get_info(p_, &info));
        return info;
    }
};

class corpus : public detail::handle<qsae_corpus, qsae_corpus_close> {
public:
    struct chunk_view {
        view<const std::int32_t> ids, labels;
        view<const std::int64_t> document;
    };
    corpus(const context &c, const tokenizer &t, const std::string &path,
           qsae_corpus_settings s = settings<qsae_corpus_settings>(),
           progress_function progress = {})
        : handle(c.keep())
    {
        detail::guarded<progress_function> p{ std::move(progress), nullptr };
        detail::set_progress(s, p);
        p.check(qsae_corpus_open(c.get(), t.get(), path.c_str(), &s, out()));
    }
    /** Rows of `chunk` ids. */
    static corpus of_ids(const context &c, view<const std::int32_t> ids, std::int64_t chunk)
    {
        corpus made(c.keep());
        detail::check(qsae_corpus_open_ids(c.get(), ids.data(), chunk > 0 ? ids.count() / chunk : 0,
                                           chunk, made.out()));
        return made;
    }
    qsae_corpus_info info() const
    {
        auto info = detail::sized<qsae_corpus_info>();
        detail::check(qsae_corpus_get_info(p_, &info));
        return info;
    }
    chunk_view chunk(std::int64_t i) const
    {
        const std::int32_t *ids = nullptr, *labels = nullptr;
        const std::int64_t *document = nullptr;
        std::int64_t n = 0;
        detail::check(qsae_corpus_chunk(p_, i, &ids, &labels, &document, &n));
        const auto size = static_cast<std::size_t>(n);
        return { { ids, size }, { labels, size }, { document, size } };
    }
    qsae_document_info document(std::int64_t i) const
    {
        auto info = detail::sized<qsae_document_info>();
        detail::check(qsae_corpus_document(p_, i, &info));
        return info;
    }

private:
    explicit corpus(std::shared_ptr<void> keep) : handle(std::move(keep)) {}
};

class weights : public detail::handle<qsae_weights, qsae_weights_close> {
public:
    weights(const context &c, const std::string &path) : handle(c.keep())
    {
        detail::check(qsae_weights_open(c.get(), path.c_str(), out()));
    }
    /** The first call with hash reads the file. */
    qsae_model_info info(bool hash = true) const
    {
        auto info = detail::sized<qsae_model_info>();
        if (!hash)
            info.struct_size = offsetof(qsae_model_info, hash);
        detail::check(qsae_weights_get_info(p_, &info));
        return info;
    }
    weights process(const std::string &what) const
    {
        weights done(keep_);
        detail::check(qsae_weights_process(p_, what.c_str(), done.out()));
        return done;
    }
    std::string_view processing() const { return qsae_weights_processing(p_); }
    void save(const std::string &condition, const std::string &folder,
              qsae_save_settings s = settings<qsae_save_settings>(),
              progress_function progress = {}) const
    {
        detail::guarded<progress_function> p{ std::move(progress), nullptr };
        detail::set_progress(s, p);
        p.check(qsae_weights_save(p_, condition.c_str(), folder.c_str(), &s));
    }
    qmatrix matrix(const std::string &module) const
    {
        qmatrix m(keep_);
        detail::check(qsae_weights_matrix(p_, module.c_str(), m.out()));
        return m;
    }
    std::int64_t matrix_count(const weights *other = nullptr) const
    {
        return qsae_weights_matrix_count(p_, other ? other->get() : nullptr);
    }
    qsae_weight_error error(std::int64_t i, const std::string &condition,
                            const weights *other = nullptr) const
    {
        auto e = detail::sized<qsae_weight_error>();
        detail::check(qsae_weights_error(p_, other ? other->get() : nullptr, condition.c_str(), i,
                                         &e));
        return e;
    }

private:
    explicit weights(std::shared_ptr<void> keep) : handle(std::move(keep)) {}
};

/** What qsae_model_forward is given, with the functions at its taps. Outputs are filled by it. */
class pass {
public:
    /** ids [n_seq, n_tokens], which must live until the pass has run, as must labels. */
    pass(view<const std::int32_t> ids, std::int64_t n_seq, std::int64_t n_tokens)
        : c_(settings<qsae_pass>())
    {
        if (n_seq < 1 || n_tokens < 1 || ids.count() / n_tokens != n_seq ||
            ids.count() % n_tokens != 0)
            throw error(QSAE_EINVAL, "pass: expected ids [n_seq, n_tokens]");
        c_.ids = ids.data();
        c_.n_seq = n_seq;
        c_.n_tokens = n_tokens;
    }
    pass(const pass &) = delete;
    pass &operator=(const pass &) = delete;
    pass &labels(view<const std::int32_t> l)
    {
        if (l.count() != c_.n_seq * c_.n_tokens)
            throw error(QSAE_EINVAL, "pass: expected labels [n_seq, n_tokens]");
        c_.labels = l.data();
        return *this;
    }
    /** Rows at a site; see sites in model.h. */
    pass &observe(std::int32_t layer, std::int32_t site, observer f)
    {
        observers_.push_back({ std::move(f), nullptr });
        taps_.push_back({ sizeof(qsae_tap), layer, site, detail::qsae_hpp_observe, nullptr,
                          &observers_.back() });
        return *this;
    }
    pass &edit(std::int32_t layer, std::int32_t site, editor f)
    {
        editors_.push_back({ std::move(f), nullptr });
        taps_.push_back({ sizeof(qsae_tap), layer, site, nullptr, detail::qsae_hpp_edit,
                          &editors_.back() });
        return *this;
    }
    pass &progress(progress_function f)
    {
        progress_.function = std::move(f);
        return *this;
    }
    pass &cancel(const cancel_token &t)
    {
        c_.cancel = t.get();
        return *this;
    }
    pass &stop_layer(std::int32_t layer)
    {
        c_.stop_layer = layer;
        return *this;
    }
    pass &want_nll(bool want = true) { return want_nll_ = want, *this; }
    pass &want_logits(bool want = true) { return want_logits_ = want, *this; }
    const std::vector<float> &nll() const { return nll_; }       /**< [n_seq, n_tokens] */
    const std::vector<float> &logits() const { return logits_; } /**< [n_seq, n_tokens, vocab] */

private:
    friend class model;
    void run(qsae_model *m, std::int64_t vocab)
    {
        const auto n = static_cast<std::size_t>(c_.n_seq * c_.n_tokens);
        nll_.assign(want_nll_ ? n : 0, 0.0f);
        logits_.assign(want_logits_ ? n * static_cast<std::size_t>(vocab) : 0, 0.0f);
        c_.nll = want_nll_ ? nll_.data() : nullptr;
        c_.logits = want_logits_ ? logits_.data() : nullptr;
        c_.taps = taps_.data();
        c_.n_taps = static_cast<std::int64_t>(taps_.size());
        detail::set_progress(c_, progress_);
        const std::int32_t status = qsae_model_forward(m, &c_);
        for (auto &o : observers_)
            o.rethrow();
        for (auto &e : editors_)
            e.rethrow();
        progress_.check(status);
    }
    qsae_pass c_;
    std::vector<qsae_tap> taps_;
    std::deque<detail::guarded<observer>> observers_;
    std::deque<detail::guarded<editor>> editors_;
    detail::guarded<progress_function> progress_;
    std::vector<float> nll_, logits_;
    bool want_nll_ = true, want_logits_ = false;
};

class model : public detail::handle<qsae_model, qsae_model_close> {
public:
    model(const weights &w, qsae_model_settings s = settings<qsae_model_settings>(),
          progress_function progress = {})
        : handle(w.keep())
    {
        detail::guarded<progress_function> p{ std::move(progress), nullptr };
        detail::set_progress(s, p);
        p.check(qsae_model_open(w.get(), &s, out()));
    }
    qsae_model_info info(bool hash = false) const
    {
        auto info = detail::sized<qsae_model_info>();
        if (!hash)
            info.struct_size = offsetof(qsae_model_info, hash);
        detail::check(qsae_model_get_info(p_, &info));
        return info;
    }
    qsae_model_cost cost() const
    {
        auto cost = detail::sized<qsae_model_cost>();
        detail::check(qsae_model_get_cost(p_, &cost));
        return cost;
    }
    std::int32_t site(const std::string &name, std::int32_t *layer = nullptr) const
    {
        return qsae_model_site(p_, name.c_str(), layer);
    }
    std::int64_t site_width(std::int32_t site) const { return qsae_model_site_width(p_, site); }
    std::int64_t site_width(std::int32_t site, std::int32_t layer) const
    {
        return qsae_model_site_width_at(p_, site, layer);
    }
    void forward(pass &p) const { p.run(p_, info().vocab); }
};

/** Activations of rows in CSR form. */
struct sparse {
    std::vector<std::int64_t> indptr{ 0 }; /**< [n + 1] */
    std::vector<std::int32_t> indices;
    std::vector<float> values;
    std::vector<float> state;              /**< what decode needs of the rows */
    std::int64_t n() const { return static_cast<std::int64_t>(indptr.size()) - 1; }
    qsae_sparse_rows c() const
    {
        return { sizeof(qsae_sparse_rows), n(), indptr.data(), indices.data(), values.data() };
    }
};

namespace detail {

/* The calls of an SAE, owned or lent. */
template <class D>
class sae_calls {
public:
    qsae_sae_info info() const
    {
        auto info = sized<qsae_sae_info>();
        check(qsae_sae_get_info(p(), &info));
        return info;
    }
    void set_prefix(std::int64_t prefix) const { check(qsae_sae_set_prefix(p(), prefix)); }
    sparse encode_sparse(const qsae_rows &x) const
    {
        sparse s;
        std::int64_t nnz = 0;
        s.indptr.resize(static_cast<std::size_t>(x.n_rows) + 1);
        s.state.resize(static_cast<std::size_t>(x.n_rows * info().state_size));
        s.indices.resize(static_cast<std::size_t>(x.n_rows) * 64);
        s.values.resize(s.indices.size());
        std::int32_t st = QSAE_ESPACE;
        for (int i = 0; i < 2 && st == QSAE_ESPACE; i++) {
            if (i == 1) {
                s.indices.resize(static_cast<std::size_t>(nnz));
                s.values.resize(s.indices.size());
            }
            const auto capacity = static_cast<std::int64_t>(s.indices.size());
            st = qsae_sae_encode_sparse(p(), &x, s.indptr.data(), s.indices.data(),
                                        s.values.data(), capacity, s.state.data(), &nnz);
        }
        check(st);
        s.indices.resize(static_cast<std::size_t>(nnz));
        s.values.resize(s.indices.size());
        return s;
    }
    /** [n, features]; state as sparse.state, where decode needs it. */
    std::vector<float> encode(const qsae_rows &x, std::vector<float> *state = nullptr) const
    {
        const auto i = info();
        std::vector<float> a(static_cast<std::size_t>(x.n_rows * i.features));
        std::vector<float> s(static_cast<std::size_t>(x.n_rows * i.state_size));
        qsae_rows acts = rows(a, i.features);
        check(qsae_sae_encode(p(), &x, &acts, s.data()));
        if (state)
            *state = std::move(s);
        return a;
    }
    /** [n, width_out] */
    std::vector<float> decode_sparse(const sparse &s) const
    {
        return made(s.n(), [&](qsae_rows &y) {
            return qsae_sae_decode_sparse(p(), s.n(), s.indptr.data(), s.indices.data(),
                                          s.values.data(), s.state.data(), &y);
        });
    }
    std::vector<float> decode(const qsae_rows &acts, view<const float> state = {}) const
    {
        return made(acts.n_rows,
                    [&](qsae_rows &y) { return qsae_sae_decode(p(), &acts, state.data(), &y); });
    }
    std::vector<float> reconstruct(const qsae_rows &x) const
    {
        return made(x.n_rows, [&](qsae_rows &y) { return qsae_sae_reconstruct(p(), &x, &y); });
    }
    void intervene(const qsae_rows &x, view<const qsae_feature_edit> edits, std::int32_t keep_error,
                   qsae_rows &y) const
    {
        check(qsae_sae_intervene(p(), &x, edits.data(), edits.count(), keep_error, &y));
    }
    std::vector<double> features(const std::string &name) const
    {
        std::vector<double> v(static_cast<std::size_t>(info().features));
        check(qsae_sae_features(p(), name.c_str(), v.data(), static_cast<std::int64_t>(v.size())));
        return v;
    }

private:
    qsae_sae *p() const { return static_cast<const D *>(this)->get(); }
    template <class F>
    std::vector<float> made(std::int64_t n, F &&fill) const
    {
        const std::int64_t width = info().width_out;
        std::vector<float> y(static_cast<std::size_t>(n * width));
        qsae_rows out = rows(y, width);
        check(fill(out));
        return y;
    }
};

} // namespace detail

class sae : public detail::handle<qsae_sae, qsae_sae_close>, public detail::sae_calls<sae> {
public:
    sae(const context &c, const std::string &path,
        const qsae_sae_settings &s = settings<qsae_sae_settings>())
        : handle(c.keep())
    {
        detail::check(qsae_sae_open(c.get(), path.c_str(), &s, out()));
    }
};

/** An SAE that a sae_layers owns. */
class lent_sae : public detail::sae_calls<lent_sae> {
public:
    lent_sae(qsae_sae *p, std::int64_t layer) : p_(p), layer_(layer) {}
    qsae_sae *get() const { return p_; }
    std::int64_t layer() const { return layer_; } /**< the number that the files give it */

private:
    qsae_sae *p_;
    std::int64_t layer_;
};

class sae_layers : public detail::handle<qsae_sae_layers, qsae_sae_layers_close> {
public:
    sae_layers(const context &c, const std::string &path,
               const qsae_sae_settings &s = settings<qsae_sae_settings>())
        : handle(c.keep())
    {
        detail::check(qsae_sae_layers_open(c.get(), path.c_str(), &s, out()));
    }
    qsae_sae_layers_info info() const
    {
        auto info = detail::sized<qsae_sae_layers_info>();
        detail::check(qsae_sae_layers_get_info(p_, &info));
        return info;
    }
    lent_sae layer(std::int64_t i) const
    {
        std::int64_t number = 0;
        qsae_sae *s = nullptr;
        detail::check(qsae_sae_layers_get(p_, i, &number, &s));
        return { s, number };
    }
    /** acts [layers]: those of layers that do not write to it may be empty. [n, width_out] */
    std::vector<float> decode_sparse(view<const sparse> acts, std::int64_t to, std::int64_t n) const
    {
        const auto i = info();
        if (acts.count() != i.layers)
            throw error(QSAE_EINVAL, "sae_layers: expected the activations of every layer");
        std::vector<qsae_sae_acts> all;
        for (const sparse &s : acts)
            all.push_back({ sizeof(qsae_sae_acts), s.indptr.data(), s.indices.data(),
                            s.values.data() });
        std::vector<float> y(static_cast<std::size_t>(n * i.width_out));
        qsae_rows out_rows = rows(y, i.width_out);
        detail::check(qsae_sae_layers_decode_sparse(p_, all.data(), to, n, &out_rows));
        return y;
    }
    /** x, y [layers]; NULL entries as in sae.h. */
    void reconstruct(view<const qsae_rows *const> x, view<qsae_rows *const> y) const
    {
        const auto layers = info().layers;
        if (x.count() != layers || y.count() != layers)
            throw error(QSAE_EINVAL, "sae_layers: expected rows of every layer");
        detail::check(qsae_sae_layers_reconstruct(p_, x.data(), y.data()));
    }
};

class logits_reader : public detail::handle<qsae_logits_reader, qsae_logits_reader_close> {
public:
    logits_reader(const context &c, const std::string &path) : handle(c.keep())
    {
        detail::check(qsae_logits_reader_open(c.get(), path.c_str(), out()));
    }
    qsae_logits_info info() const
    {
        auto info = detail::sized<qsae_logits_info>();
        detail::check(qsae_logits_reader_get_info(p_, &info));
        return info;
    }
    view<const std::int32_t> tokens(std::int64_t chunk) const
    {
        const std::int32_t *ids = nullptr;
        detail::check(qsae_logits_reader_tokens(p_, chunk, &ids));
        return { ids, static_cast<std::size_t>(info().context) };
    }
    /** [rows, vocab] log-probabilities */
    std::vector<float> rows(std::int64_t chunk) const
    {
        const auto i = info();
        std::vector<float> v(static_cast<std::size_t>(i.rows * i.vocab));
        detail::check(qsae_logits_reader_rows(p_, chunk, v.data(), i.rows * i.vocab));
        return v;
    }
};

class logits_writer : public detail::handle<qsae_logits_writer, qsae_logits_writer_close> {
public:
    /** tokens [chunks, context] */
    logits_writer(const context &c, const std::string &path, std::int64_t context_tokens,
                  std::int64_t vocab, view<const std::int32_t> tokens)
        : handle(c.keep())
    {
        auto info = detail::sized<qsae_logits_info>();
        info.context = context_tokens;
        info.vocab = vocab;
        info.chunks = context_tokens > 0 ? tokens.count() / context_tokens : 0;
        detail::check(qsae_logits_writer_open(c.get(), path.c_str(), &info, tokens.data(), out()));
    }
    void add(const qsae_rows &logits) { detail::check(qsae_logits_writer_add(p_, &logits)); }
    void finish() { detail::check(qsae_logits_writer_finish(p_)); }
};

/** An accumulator. `at` NULL: rows follow the previous update. */
class metric : public detail::handle<qsae_metric, qsae_metric_close> {
public:
    using S = qsae_metric_settings;
    static metric cross_entropy(const context &c, const S &s = settings<S>())
    {
        return made(c, [&](qsae_metric **o) {
            return qsae_metric_open_cross_entropy(c.get(), &s, o);
        });
    }
    static metric divergence(const context &c, const S &s = settings<S>())
    {
        return made(c,
                    [&](qsae_metric **o) { return qsae_metric_open_divergence(c.get(), &s, o); });
    }
    static metric reconstruction(const context &c, std::int64_t d, std::int64_t features = 0,
                                 const S &s = settings<S>())
    {
        return made(c, [&](qsae_metric **o) {
            return qsae_metric_open_reconstruction(c.get(), d, features, &s, o);
        });
    }
    static metric features(const context &c, std::int64_t features, const S &s = settings<S>())
    {
        return made(c, [&](qsae_metric **o) {
            return qsae_metric_open_features(c.get(), features, &s, o);
        });
    }
    static metric drift(const context &c, std::int64_t d, const S &s = settings<S>())
    {
        return made(c, [&](qsae_metric **o) { return qsae_metric_open_drift(c.get(), d, &s, o); });
    }
    static metric llama_cpp(const context &c, const S &s = settings<S>())
    {
        return made(c, [&](qsae_metric **o) { return qsae_metric_open_llama_cpp(c.get(), &s, o); });
    }
    std::string_view kind() const { return qsae_metric_kind(p_); }

    void update_cross_entropy(view<const float> nll, const qsae_positions *at = nullptr)
    {
        detail::check(qsae_metric_update_cross_entropy(p_, at, nll.count(), nll.data()));
    }
    void update_cross_entropy(const qsae_rows &logits, view<const std::int32_t> label,
                              const qsae_positions *at = nullptr)
    {
        same(label.count(), logits.n_rows);
        detail::check(qsae_metric_update_cross_entropy_logits(p_, at, &logits, label.data()));
    }
    void update_divergence(const qsae_divergence_rows &r, const qsae_positions *at = nullptr)
    {
        detail::check(qsae_metric_update_divergence(p_, at, &r));
    }
    void update_divergence(const qsae_rows &logits_r, const qsae_rows &logits_q,
                           view<const std::int32_t> label, const qsae_positions *at = nullptr)
    {
        same(label.count(), logits_r.n_rows);
        detail::check(qsae_metric_update_divergence_logits(p_, at, &logits_r, &logits_q,
                                                           label.data()));
    }
    void update_llama_cpp(const qsae_rows &logits_r, const qsae_rows &logits_q,
                          view<const std::int32_t> label, const qsae_positions *at = nullptr)
    {
        same(label.count(), logits_r.n_rows);
        detail::check(qsae_metric_update_llama_cpp_logits(p_, at, &logits_r, &logits_q,
                                                          label.data()));
    }
    void update_llama_cpp(const logits_reader &base, std::int64_t chunk, const qsae_rows &logits_q)
    {
        detail::check(qsae_metric_update_llama_cpp_base(p_, base.get(), chunk, &logits_q));
    }
    void update_reconstruction(const qsae_rows &x, const qsae_rows &y, const sparse *acts = nullptr,
                               const qsae_positions *at = nullptr)
    {
        const qsae_sparse_rows a = acts ? acts->c() : qsae_sparse_rows{};
        detail::check(qsae_metric_update_reconstruction(p_, at, &x, &y, acts ? &a : nullptr));
    }
    void update_features(const sparse &r, const sparse &q, const qsae_positions *at = nullptr)
    {
        const qsae_sparse_rows a = r.c(), b = q.c();
        detail::check(qsae_metric_update_features(p_, at, &a, &b));
    }
    /** y_r, y_q: both NULL without an SAE. */
    void update_drift(const qsae_rows &x_r, const qsae_rows &x_q, const qsae_rows *y_r = nullptr,
                      const qsae_rows *y_q = nullptr, const qsae_positions *at = nullptr)
    {
        detail::check(qsae_metric_update_drift(p_, at, &x_r, &x_q, y_r, y_q));
    }

    double get_value(const std::string &name) const
    {
        double v = 0;
        detail::check(qsae_metric_get(p_, name.c_str(), &v));
        return v;
    }
    std::vector<qsae_value> values() const
    {
        std::vector<qsae_value> all(static_cast<std::size_t>(qsae_metric_count(p_)),
                                    detail::sized<qsae_value>());
        for (std::size_t i = 0; i < all.size(); i++)
            detail::check(qsae_metric_value(p_, static_cast<std::int32_t>(i), &all[i]));
        return all;
    }
    /** Of `features` features. */
    std::vector<double> feature_values(const std::string &name, std::int64_t features) const
    {
        std::vector<double> v(static_cast<std::size_t>(features));
        detail::check(qsae_metric_features(p_, name.c_str(), v.data(), features));
        return v;
    }
    /** {token, activation}, larger first; settings.top is the capacity. */
    std::vector<std::pair<std::int64_t, double>> top(std::int64_t feature, std::int32_t side,
                                                     std::int64_t capacity) const
    {
        std::vector<std::int64_t> tokens(static_cast<std::size_t>(capacity));
        std::vector<double> v(tokens.size());
        std::int64_t n = 0;
        detail::check(qsae_metric_top(p_, feature, side, tokens.data(), v.data(), capacity, &n));
        std::vector<std::pair<std::int64_t, double>> all;
        for (std::size_t i = 0; i < static_cast<std::size_t>(n); i++)
            all.emplace_back(tokens[i], v[i]);
        return all;
    }
    /** {chunk, the ten numbers of its line} */
    std::vector<std::pair<std::int64_t, std::array<double, QSAE_METRIC_LLAMA_LINE>>> lines()
    {
        std::int64_t n = 0;
        detail::check(qsae_metric_llama_lines(p_, nullptr, nullptr, 0, &n));
        std::vector<std::int64_t> chunks(static_cast<std::size_t>(n));
        std::vector<double> v(chunks.size() * QSAE_METRIC_LLAMA_LINE);
        if (n > 0)
            detail::check(qsae_metric_llama_lines(p_, chunks.data(), v.data(), n, &n));
        std::vector<std::pair<std::int64_t, std::array<double, QSAE_METRIC_LLAMA_LINE>>> all;
        for (std::size_t i = 0; i < chunks.size(); i++) {
            all.push_back({ chunks[i], {} });
            for (std::size_t k = 0; k < QSAE_METRIC_LLAMA_LINE; k++)
                all.back().second[k] = v[i * QSAE_METRIC_LLAMA_LINE + k];
        }
        return all;
    }
    void merge(const metric &from) { detail::check(qsae_metric_merge(p_, from.get())); }
    void reset() { qsae_metric_reset(p_); }
    void save(const std::string &path) const { detail::check(qsae_metric_save(p_, path.c_str())); }
    void load(const std::string &path) { detail::check(qsae_metric_load(p_, path.c_str())); }

private:
    explicit metric(std::shared_ptr<void> keep) : handle(std::move(keep)) {}
    template <class F>
    static metric made(const context &c, F &&open)
    {
        metric m(c.keep());
        detail::check(open(m.out()));
        return m;
    }
    static void same(std::int64_t labels, std::int64_t n)
    {
        if (labels != n)
            throw error(QSAE_EINVAL, "label: expected one per row");
    }
};

class predictor : public detail::handle<qsae_predictor, qsae_predictor_close> {
public:
    /** Empty condition, sae_hash: the first that has a fit, as in predictor.h. */
    predictor(const context &c, const std::string &path, const std::string &condition = {},
              const std::string &sae_hash = {})
        : handle(c.keep())
    {
        detail::check(qsae_predictor_open(c.get(), path.c_str(), detail::c_string(condition),
                                          detail::c_string(sae_hash), out()));
    }
    std::string_view json() const
    {
        const char *text = nullptr;
        std::size_t n = 0;
        detail::check(qsae_predictor_json(p_, &text, &n));
        return { text, n };
    }
    /** Probability of survival and rank at risk of each feature. */
    std::pair<std::vector<double>, std::vector<std::int64_t>>
    run(view<const double> rate, view<const double> mean, view<const double> max) const
    {
        if (rate.size() != mean.size() || rate.size() != max.size())
            throw error(QSAE_EINVAL, "predictor: expected arrays of one length");
        std::pair<std::vector<double>, std::vector<std::int64_t>> r{
            std::vector<double>(rate.size()), std::vector<std::int64_t>(rate.size())
        };
        detail::check(qsae_predictor_run(p_, rate.data(), mean.data(), max.data(), rate.count(),
                                         r.first.data(), r.second.data()));
        return r;
    }
};

class probes : public detail::handle<qsae_probes, qsae_probes_close> {
public:
    probes(const context &c, const tokenizer &t, const std::string &path,
           const qsae_probe_settings &s = settings<qsae_probe_settings>())
        : handle(c.keep())
    {
        detail::check(qsae_probes_open(c.get(), t.get(), path.c_str(), &s, out()));
    }
    qsae_probes_info info() const
    {
        auto info = detail::sized<qsae_probes_info>();
        detail::check(qsae_probes_get_info(p_, &info));
        return info;
    }
    const char *tag(std::int64_t i) const { return qsae_probes_tag(p_, i); }
    qsae_probe item(std::int64_t i) const
    {
        auto item = detail::sized<qsae_probe>();
        detail::check(qsae_probes_item(p_, i, &item));
        return item;
    }
    void run(const model &m, std::function<bool(const qsae_probe_score &)> each,
             const cancel_token *cancel = nullptr) const
    {
        detail::guarded<std::function<bool(const qsae_probe_score &)>> g{ std::move(each),
                                                                          nullptr };
        g.check(qsae_probes_run(p_, m.get(), cancel ? cancel->get() : nullptr,
                                detail::qsae_hpp_score, &g));
    }
};

class audit : public detail::handle<qsae_audit, qsae_audit_close> {
public:
    audit(const context &c, qsae_audit_settings s, progress_function progress = {})
        : handle(c.keep()), progress_(std::make_unique<detail::guarded<progress_function>>())
    {
        progress_->function = std::move(progress);
        detail::set_progress(s, *progress_);
        progress_->check(qsae_audit_open(c.get(), &s, out()));
    }
    void run() { progress_->check(qsae_audit_run(p_)); }
    /** JSON; a copy. */
    std::string result()
    {
        const char *json = nullptr;
        std::size_t n = 0;
        detail::check(qsae_audit_result(p_, &json, &n));
        return { json, n };
    }
    std::string plan(double bits, bool by_dce = false)
    {
        const char *json = nullptr;
        detail::check(qsae_audit_plan(p_, bits, by_dce, &json));
        return json;
    }
    /** One JSON object per feature of SAE number `sae`. */
    void features(std::int64_t sae, std::function<bool(std::string_view)> line)
    {
        detail::guarded<std::function<bool(std::string_view)>> g{ std::move(line), nullptr };
        g.check(qsae_audit_features(p_, sae, detail::qsae_hpp_line, &g));
    }

private:
    std::unique_ptr<detail::guarded<progress_function>> progress_;
};

/** States of shards to one file. */
inline qsae_merge_info merge(const context &c, const std::vector<std::string> &files,
                             const std::string &to, std::int32_t flags = 0)
{
    std::vector<const char *> names;
    for (const std::string &f : files)
        names.push_back(f.c_str());
    auto info = detail::sized<qsae_merge_info>();
    detail::check(qsae_audit_merge(c.get(), names.data(), static_cast<std::int64_t>(names.size()),
                                   to.c_str(), flags, &info));
    return info;
}

} // namespace qsae

#endif
