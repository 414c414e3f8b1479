/* SPDX-License-Identifier: BSD-2-Clause */
/* The main job: compare a model with compressed copies of itself. See doc/evaluate.md. */
#include "evaluation.h"
#include "program.h"

static int measure(struct evaluation *o, qsae_context *context)
{
    qsae_audit *audit = NULL;
    int32_t st = o->plan.bits > 0 ? plan_make(context, &o->plan, &o->audit) : QSAE_OK;
    if (st == QSAE_OK)
        st = qsae_audit_open(context, &o->audit, &audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(audit);
    progress_clear();
    int code = EXIT_FAILED;
    if (st == QSAE_OK)
        code = evaluation_finish(o, context, audit);
    else
        complain("%s", qsae_error_message());
    if (st == QSAE_ECANCELED)
        code = EXIT_INTERRUPTED;
    if (code == EXIT_INTERRUPTED && o->audit.state)
        complain("the same command goes on from %s", o->audit.state);
    qsae_audit_close(&audit);
    return code;
}

int main(int argc, char **argv)
{
    struct evaluation o = { .quiet = false };
    qsae_context *context = NULL;
    qsae_cancel_token *cancel = NULL;
    int code = EXIT_FAILED;
    evaluation_parse(&o, &evaluate_program, argc, argv);
    o.context.log = program_log;
    int32_t st = program_cancel_open(&cancel);
    o.audit.cancel = cancel;
    if (progress_wanted(o.quiet))
        o.audit.progress = progress_line;
    if (st == QSAE_OK)
        st = qsae_context_open(&o.context, &context);
    if (st != QSAE_OK)
        complain("%s", qsae_error_message());
    else
        code = o.audit.model ? measure(&o, context) : evaluation_predict(&o, context);
    qsae_context_close(&context);
    qsae_cancel_token_close(&cancel);
    evaluation_free(&o);
    return program_end(code);
}
