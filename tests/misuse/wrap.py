#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Writes wrap.h and wrap.c from the public headers: for every function another one that calls it
with one argument wrong at a time, and then as it was called.

    wrap.py INCLUDE_FOLDER wrap.h wrap.c
"""
import pathlib
import re
import sys

NUMBERS = {'int32_t': 'i32', 'int64_t': 'i64', 'double': 'f64', 'float': 'f32'}
STRUCTS = {}
HANDLES = {}
# What these return is no status.
VALUES = re.compile(r'_from_name$|_bits$|_block$|_threads$|_site$|_is_special$|_count$')


# Allowed, and done then: the good call could not follow.
ALLOWED_ONCE = {('qsae_weights_save', 'condition'): 0, ('qsae_weights_save', 'settings'): 0,
                ('qsae_logits_writer_add', 'logits'): 12,
                ('qsae_metric_update_llama_cpp_base', 'logits_q'): 12}


def prototypes():
    for header in sorted((pathlib.Path(sys.argv[1]) / 'qsae').glob('*.h')):
        text = re.sub(r'/\*.*?\*/', '', header.read_text(), flags=re.S)
        text = re.sub(r'^#.*?(?<!\\)$', '', text, flags=re.M | re.S)
        for name in re.findall(r'^typedef struct (\w+) \{', text, flags=re.M):
            STRUCTS[name] = True
        for name in re.findall(r'^typedef struct (\w+) \1;', text, flags=re.M):
            HANDLES[name] = True
        for m in re.finditer(r'QSAE_API\s+([^;{}]+?)\s*(\*?)(qsae_\w+)\(([^;]*)\);', text):
            result = (m[1] + ' ' + m[2]).strip()
            args = []
            for a in re.sub(r'\s+', ' ', m[4]).split(', '):
                if a != 'void':
                    k = re.match(r'(.*?)(\w+)$', a)
                    args.append((k[1].strip(), k[2]))
            yield result, m[3], args


def wrong_values(kind):
    """Helper that gives the b-th wrong value, or None."""
    bare = kind.replace('const ', '').strip()
    if kind in NUMBERS:
        return 'wrong_' + NUMBERS[kind]
    if bare in ('size_t', 'void *'):
        return None
    if kind == 'const char *':
        return 'wrong_text'
    if bare == 'qsae_rows *':
        return 'wrong_rows'
    name = bare.rstrip(' *')
    if name in HANDLES and bare == name + ' *':
        return 'wrong_handle'
    if bare == name + ' *' and name in STRUCTS:
        return 'wrong_struct' if kind.startswith('const') else 'wrong_info'
    return 'wrong_pointer'


def declared(kind, name):
    return f'{kind}{"" if kind.endswith("*") else " "}{name}'


def closer(name, kind, param):
    """Of a close function: wrong places alone."""
    bare = kind.replace(' *', '').replace('*', '').strip()
    return [f'    void **v;', f'    for (int b = 0; wrong_place(b, &v, "{bare}"); b++) {{',
            '        const void *const before = v && (uintptr_t)v % sizeof v == 0 ? *v : NULL;',
            f'        {name}(({kind})v);',
            f'        judge_close("{name}", "{param}", b, v, before);', '    }']


def given(helper, kind, param):
    """Arguments of a helper after the value."""
    if helper == 'wrong_rows':
        return f', {param}'
    if helper in ('wrong_struct', 'wrong_info'):
        return f', {param}, sizeof *{param}'
    if helper == 'wrong_handle':
        return f', {param}, "{kind.replace("const ", "").rstrip(" *")}"'
    if helper == 'wrong_pointer':
        return ', NULL, 1' if 'callback' in kind or 'void' in kind else \
            f', {param}, sizeof *{param}'
    return ''


def wrong_calls(result, name, args, k, n, helper):
    """Calls with wrong values of parameter n."""
    out, call = [], []
    handles = [t for t, a in args if t.endswith('**') and a == 'out' and a != n]
    value = k in NUMBERS or helper == 'wrong_text'
    kind = k if value else 'void *'
    cast = 'v' if value else 'NULL' if 'callback' in k else f'({k})v'
    for t, a in args:
        call.append(cast if a == n else '&made' if handles and a == 'out' else a)
    out += ['    for (int b = 0; ; b++) {', f'        {declared(kind, "v")};',
            f'        if (!{helper}(b, &v{given(helper, k, n)}))', '            break;']
    if (name, n) in ALLOWED_ONCE:
        out += [f'        if (b == {ALLOWED_ONCE[name, n]})', '            continue;']
    if handles:
        out.append(f'        {handles[0][:-1].strip()} made = NOT_NULL;'.replace('* made', '*made'))
    text = f'{name}({", ".join(call)})'
    nulled = 'made == NULL' if handles else 'true'
    if result in ('int32_t', 'int64_t', 'uint64_t'):
        kind = 'RESULT_STATUS' if result == 'int32_t' and not VALUES.search(name) else \
            'RESULT_NEUTRAL' if helper == 'wrong_handle' else 'RESULT_NOTHING'
        out += [f'        const int64_t got = (int64_t){text};',
                f'        judge("{name}", "{n}", b, {kind}, got, {nulled});']
    elif result == 'void':
        out += [f'        {text};', f'        judge("{name}", "{n}", b, RESULT_NOTHING, 0, true);']
    else:
        kind = 'RESULT_NEUTRAL' if helper == 'wrong_handle' else 'RESULT_NOTHING'
        out += [f'        const char *const got = {text};',
                f'        judge("{name}", "{n}", b, {kind}, got ? got[0] : 0, true);']
    if handles:
        close = re.sub(r'\W', '', handles[0].replace('const', '')) + '_close'
        out += ['        if (made != NULL && made != NOT_NULL)', f'            {close}(&made);']
    return out + ['    }']


def wrapper(result, name, args):
    plain = ', '.join(n for _, n in args)
    out = [f'{declared(result, "misuse_" + name)}'
           f'({", ".join(declared(k, n) for k, n in args) or "void"})', '{']
    if name.endswith('_init'):
        kind = args[0][0]
        out += ['    void *v;', '    size_t size_;',
                '    for (int b = 0; wrong_init(b, &v, &size_); b++) {',
                f'        {name}(({kind})v, size_);', f'        judge_init("{name}", b);', '    }']
        args = []
    elif name.endswith('_close'):
        out += closer(name, *args[0])
        args = []
    for k, n in args:
        helper = wrong_values(k)
        if helper == 'wrong_text' and ('size_t', 'n_bytes') in args:
            helper = 'wrong_pointer' # its length is told
        if helper:
            out += wrong_calls(result, name, args, k, n, helper)
    out.append(f'    {"" if result == "void" else "return "}{name}({plain});')
    out.append('}')
    return '\n'.join(out)


def main():
    listed = list(prototypes())
    head = ['/* SPDX-License-Identifier: BSD-2-Clause */', '/* Written by wrap.py. */',
            '#ifndef TESTS_MISUSE_WRAP_H', '#define TESTS_MISUSE_WRAP_H', '',
            '#include <qsae/qsae.h>', '']
    for result, name, args in listed:
        args_text = ", ".join(declared(k, n) for k, n in args) or "void"
        head.append(f'{declared(result, "misuse_" + name)}({args_text});')
    head += ['', '#ifndef MISUSE_PLAIN']
    head += [f'#define {name} misuse_{name}' for _, name, _ in listed]
    head += ['#endif', '', '#endif', '']
    pathlib.Path(sys.argv[2]).write_text('\n'.join(head))
    body = ['/* SPDX-License-Identifier: BSD-2-Clause */', '/* Written by wrap.py. */',
            '#define MISUSE_PLAIN', '#include "wrap.h"', '', '#include "misuse.h"', '']
    body += [wrapper(*p) + '\n' for p in listed]
    pathlib.Path(sys.argv[3]).write_text('\n'.join(body))


main()
