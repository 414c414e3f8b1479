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
    if bare == name + ' *' and name in STRUCTS:
        return 'wrong_struct' if kind.startswith('const') else 'wrong_info'
    return 'wrong_pointer'


def wrapper(result, name, args):
    plain = ', '.join(n for _, n in args)
    out = [f'{result}{"" if result.endswith("*") else " "}misuse_{name}'
           f'({", ".join(k + ("" if k.endswith("*") else " ") + n for k, n in args) or "void"})',
           '{']
    closes = result == 'void'
    for k, n in args:
        helper = wrong_values(k)
        if helper == 'wrong_text' and ('size_t', 'n_bytes') in args:
            helper = 'wrong_pointer' # its length is told
        if not helper or name.endswith('_init') or name.endswith('_cancel') or \
                name.endswith('_reset'):
            continue
        bare = k.replace('const ', '').strip()
        handles = [(t, a) for t, a in args
                   if t.endswith('**') and a == 'out' and not closes and a != n]
        call = []
        for t, a in args:
            value = a
            if a == n:
                value = 'v'
            elif handles and a == 'out':
                value = '&made'
            call.append(value)
        given = f', {n}' if helper in ('wrong_rows',) else \
            f', {n}, sizeof *{n}' if helper in ('wrong_struct', 'wrong_info') else ''
        kind = k if k in NUMBERS or helper == 'wrong_text' else 'void *'
        out.append('    for (int b = 0; ; b++) {')
        out.append(f'        {kind}{"" if kind.endswith("*") else " "}v;')
        out.append(f'        if (!{helper}(b, &v{given}))')
        out.append('            break;')
        if (name, n) in ALLOWED_ONCE:
            out.append(f'        if (b == {ALLOWED_ONCE[name, n]})')
            out.append('            continue;')
        if handles:
            t = handles[0][0][:-1].strip()
            out.append(f'        {t}made = NOT_NULL;')
        if kind == 'void *':
            cast = 'NULL' if 'callback' in k else f'({k})v'
            call = [cast if c == 'v' else c for c in call]
        text = f'{name}({", ".join(call)})'
        if result == 'int32_t' or result == 'int64_t' or result == 'uint64_t':
            status = 'true' if result == 'int32_t' and not VALUES.search(name) else 'false'
            out.append(f'        const int64_t got = (int64_t){text};')
            out.append(f'        judge("{name}", "{n}", b, {status}, got'
                       f', {"made == NULL" if handles else "true"});')
        elif result == 'void':
            out.append(f'        {text};')
            out.append(f'        judge("{name}", "{n}", b, false, 0, true);')
        else:
            out.append(f'        (void){text};')
            out.append(f'        judge("{name}", "{n}", b, false, 0, true);')
        if handles:
            close = re.sub(r'\W', '', handles[0][0].replace('const', '')) + '_close'
            out.append('        if (made != NULL && made != NOT_NULL)')
            out.append(f'            {close}(&made);')
        out.append('    }')
    out.append(f'    {"" if result == "void" else "return "}{name}({plain});')
    out.append('}')
    return '\n'.join(out)


def main():
    listed = list(prototypes())
    head = ['/* SPDX-License-Identifier: BSD-2-Clause */', '/* Written by wrap.py. */',
            '#ifndef TESTS_MISUSE_WRAP_H', '#define TESTS_MISUSE_WRAP_H', '',
            '#include <qsae/qsae.h>', '']
    for result, name, args in listed:
        args_text = ", ".join(k + ("" if k.endswith("*") else " ") + n for k, n in args) or "void"
        head.append(f'{result}{"" if result.endswith("*") else " "}misuse_{name}({args_text});')
    head += ['', '#ifndef MISUSE_PLAIN']
    head += [f'#define {name} misuse_{name}' for _, name, _ in listed]
    head += ['#endif', '', '#endif', '']
    pathlib.Path(sys.argv[2]).write_text('\n'.join(head))
    body = ['/* SPDX-License-Identifier: BSD-2-Clause */', '/* Written by wrap.py. */',
            '#define MISUSE_PLAIN', '#include "wrap.h"', '', '#include "misuse.h"', '']
    body += [wrapper(*p) + '\n' for p in listed]
    pathlib.Path(sys.argv[3]).write_text('\n'.join(body))


main()
