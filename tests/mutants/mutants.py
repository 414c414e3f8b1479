# SPDX-License-Identifier: BSD-2-Clause
"""Mutants of the parsers and of state code: changes one operator, number, condition or statement of a file at a time,
links the test programs with it, and says which changes no test notices.

usage: mutants.py BUILD [FILE...] [--sample N] [--seed S] [--lines A-B]
  BUILD       a build folder of meson, configured
  FILE        below libqsae, as in the table TESTS; all of them by default
  --sample N  at most N mutants per file, drawn with --seed (printed; by default 1)
  --lines A-B only mutants of these lines

A mutant is killed when a program fails, is ended by a signal, or takes longer than ten times its
normal time. One that no program notices is equivalent if gcc -O2 or clang -O2 makes the same object of it,
or if equivalent.txt has it with a reason; else it survives. Status 1 below 90% killed in a file.
"""
import argparse
import json
import os
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LEAST = 90.0

# Which programs concern a file, quickest first.
FORMATS = 'tests/formats/test_formats'
TEXT = 'tests/text/test_text'
READERS = 'tests/formats/test_readers'
SHORT = 'test_words'  # the long form of this one takes minutes
WRITTEN = 'tests/metrics/test_metrics test_'
MERGING = 'tests/audit/test_merging'
GATHERED = 'tests/audit/test_gathered'
SAE = 'tests/sae/test_sae'
MODEL = 'tests/model/test_model'
CODECS = 'tests/codecs/test_codecs'
TESTS = {
    'formats/safetensors.c': [FORMATS + ' edges writer', FORMATS + ' safetensors parts',
                              READERS + ' safetensors'],
    'formats/members.c': [FORMATS + ' edges safetensors'],
    'formats/npy.c': [FORMATS + ' edges npy', READERS + ' npy'],
    'formats/npz.c': [FORMATS + ' edges npy', READERS + ' npz'],
    'formats/gguf.c': [FORMATS + ' parts', FORMATS + ' gguf', READERS + ' gguf'],
    'formats/pairs.c': [FORMATS + ' parts', FORMATS + ' gguf'],
    'formats/index.c': [FORMATS + ' parts index', READERS + ' index', READERS + ' snapshot'],
    'formats/load.c': [FORMATS + ' edges parts index npy', READERS + ' single'],
    'formats/tensors.c': [FORMATS + ' edges parts safetensors', READERS + ' safetensors'],
    'formats/writer.c': [FORMATS + ' writer safetensors', READERS + ' written'],
    'formats/yaml.c': [FORMATS + ' yaml', READERS + ' yaml'],
    'formats/logits.c': [FORMATS + ' logits', READERS + ' rows'],
    'core/checked.h': ['tests/core/test_core', FORMATS + ' edges parts gguf'],
    'core/output.c': ['tests/core/test_outputs'],
    'core/spool.c': ['tests/core/test_outputs'],
    'metrics/prefix.c': [WRITTEN + x for x in ('kept', 'before', 'without_memory', 'gapped')],
    'metrics/shards.c': [WRITTEN + x for x in ('described', 'set_cuts', 'before', 'open_batch', 'without_memory')] + [GATHERED],
    'metrics/state.c': [WRITTEN + x for x in ('options', 'places', 'described', 'without_memory', 'resume', 'words')],
    'audit/state.c': [GATHERED, MERGING, 'tests/audit/test_many_shards'],
    'audit/merge.c': [MERGING],
    'audit/parts.c': [GATHERED, 'tests/audit/test_many_shards'],
    'audit/coverage.c': [GATHERED],
    'text/bpe_read.c': [TEXT + ' edges', TEXT + ' tokenizer', READERS + ' BPE'],
    'text/vocab.c': [TEXT + ' edges', TEXT + ' tokenizer unigram'],
    'text/template.c': [TEXT + ' edges', TEXT + ' tokenizer'],
    'text/filter.c': [TEXT + ' edges'],
    'text/unigram_read.c': [TEXT + ' edges', TEXT + ' unigram', READERS + ' Unigram'],
    'text/files.c': [TEXT + ' edges', TEXT + ' files', READERS + ' files', READERS + ' listed'],
    'text/normalize.c': [TEXT + ' steps', TEXT + ' tokenizer'],
    'text/probes.c': [TEXT + ' steps', READERS + ' probes'],
    'text/gguf_kinds.c': [TEXT + ' steps', TEXT + ' gguf'],
    'text/gguf.c': [TEXT + ' memory', TEXT + ' gguf', TEXT + ' "gguf refused"'],
    'text/join.c': [TEXT + ' memory', TEXT + ' corpus selection'],
    'sae/config.c': [SAE + ' test_keys', SAE + ' test_memory', SAE + ' test_formats'],
    'sae/saelens.c': [SAE + ' test_keys', SAE + ' test_memory', SAE + ' test_formats'],
    'sae/sparsify.c': [SAE + ' test_keys', SAE + ' test_memory', SAE + ' test_formats'],
    'sae/dictionary_learning.c': [SAE + ' test_keys', SAE + ' test_memory', SAE + ' test_formats'],
    'sae/gemma_scope.c': [SAE + ' test_set_keys', SAE + ' test_set_memory', SAE + ' test_formats'],
    'sae/openmoss.c': [SAE + ' test_set_keys', SAE + ' test_set_memory', SAE + ' test_formats'],
    'sae/circuit_tracer.c': [SAE + ' test_set_keys', SAE + ' test_set_memory', SAE + ' test_formats'],
    'model/config.c': [MODEL + ' keys', MODEL + ' configuration'],
    'model/gguf_keys.c': [MODEL + ' keys', MODEL + ' gguf'],
    'model/layer_types.c': [MODEL + ' keys', MODEL + ' configuration'],
    'codecs/compressed_read.c': [CODECS + ' keys'],
}
# What a header's mutants are compiled into: sources of the library, and of the programs themselves.
INCLUDED_BY = {'core/checked.h': ['libqsae/formats/', 'tests/core/files.c']}

TOKEN = re.compile(r'''
    (?P<space>\s+|//[^\n]*|/\*.*?\*/) |
    (?P<hash>\#(?:[^\n\\]|\\.|\\\n)*) |
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*') |
    (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?[uUlLfF]*) |
    (?P<name>[A-Za-z_]\w*) |
    (?P<op>\.\.\.|<<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^~!<>=?:;,.(){}\[\]])
''', re.VERBOSE | re.DOTALL)

RELATIONAL = {'<': ['<=', '>='], '<=': ['<', '>'], '>': ['>=', '<='], '>=': ['>', '<'], '==': ['!='],
              '!=': ['==']}
OTHER = {'&&': '||', '||': '&&', '+=': '-=', '-=': '+=', '|=': '&=', '&=': '|=', '++': '--', '--': '++',
         '<<': '>>', '>>': '<<'}
BINARY = {'+': '-', '-': '+', '*': '/', '/': '*', '%': '/', '&': '|', '|': '&'}
CHECKED = re.compile(r'qsae__(mul_u64|add_u64|mul_i64|add_i64|mul_size|add_size|bytes|range_in|shape_bytes)$')
DECLARES = set('const static int char bool size_t double float struct enum union typedef void unsigned '
               'signed long short break continue goto case default extern inline else do'.split())


def tokens(text):
    at, out = 0, []
    while at < len(text):
        m = TOKEN.match(text, at)
        if m is None:
            sys.exit('cannot read C at "%s"' % text[at:at + 40])
        if m.lastgroup != 'space':
            out.append((m.lastgroup, m.group(), at))
        at = m.end()
    return out


def closing(toks, i):
    """Index of the parenthesis that closes the one at i."""
    depth = 0
    for k in range(i, len(toks)):
        depth += {'(': 1, ')': -1}.get(toks[k][1], 0) if toks[k][0] == 'op' else 0
        if depth == 0:
            return k
    return None


def number(text):
    digits = text.rstrip('uUlL')
    suffix = text[len(digits):]
    if '.' in digits or (not digits.lower().startswith('0x') and re.search('[eEfF]', digits)):
        return []
    value = int(digits, 16) if digits.lower().startswith('0x') else int(digits, 8 if
                                                                        digits.startswith('0') else 10)
    form = (lambda v: '0x%x' % v) if digits.lower().startswith('0x') else str
    return [form(v) + suffix for v in (value + 1, value - 1) if v >= 0]


def statements(toks):
    """(first, last) of every expression statement and return, last being its semicolon."""
    start, depth = None, 0
    i = 0
    while i < len(toks):
        kind, text, _ = toks[i]
        if kind == 'name' and text in ('if', 'while', 'for', 'switch') and depth == 0:
            end = closing(toks, i + 1)
            # "while (...)" behind a do block ends in a semicolon: an empty statement, left alone.
            i = end + 1
            start = i
            continue
        if kind == 'op' and text in '([':
            depth += 1
        elif kind == 'op' and text in ')]':
            depth -= 1
        if depth == 0 and kind == 'op' and text in ('{', '}'):
            start = i + 1
        elif depth == 0 and kind == 'op' and text == ':' and start is not None and \
                toks[start][1] in ('case', 'default'):
            start = i + 1
        elif depth == 0 and kind == 'name' and text == 'else':
            start = i + 1
        elif depth == 0 and kind == 'op' and text == ';':
            if start is not None and start < i:
                yield start, i
            start = i + 1
        i += 1


def is_expression(toks, first, last):
    kind, text, _ = toks[first]
    if kind == 'name' and text == 'return':
        return True
    if kind == 'name' and text in DECLARES:
        return False
    if kind == 'name' and first + 1 < last:
        following = toks[first + 1]
        if following[0] == 'name' or (following[1] == '*' and toks[first + 2][0] == 'name'):
            return False
    return kind in ('name', 'op') and text not in ('{', '}', '#')


def mutants(text):
    """[(offset, length, replacement)] of every change."""
    toks = tokens(text)
    found = []
    brace = 0
    for i, (kind, tok, at) in enumerate(toks):
        before = toks[i - 1] if i > 0 else ('op', '', 0)
        spaced = at > 0 and text[at - 1] in ' \n' and text[at + len(tok):at + len(tok) + 1] in (' ', '\n')
        if kind == 'op':
            brace += {'{': 1, '}': -1}.get(tok, 0)
            if tok in RELATIONAL and spaced:
                found += [(at, len(tok), r) for r in RELATIONAL[tok]]
            elif tok in OTHER:
                found.append((at, len(tok), OTHER[tok]))
            elif tok in BINARY and spaced and (before[0] in ('name', 'number') or before[1] in (')', ']')):
                found.append((at, len(tok), BINARY[tok]))
        elif kind == 'number':
            found += [(at, len(tok), n) for n in number(tok)]
        elif kind == 'name' and tok in ('true', 'false'):
            found.append((at, len(tok), 'false' if tok == 'true' else 'true'))
        elif kind == 'name' and tok in ('if', 'while') and toks[i + 1][1] == '(':
            end = closing(toks, i + 1)
            a, b = toks[i + 1][2], toks[end][2] + 1
            found.append((a, b - a, '(!' + text[a:b] + ')'))
        elif kind == 'name' and CHECKED.match(tok) and brace > 0 and toks[i + 1][1] == '(':
            b = toks[closing(toks, i + 1)][2] + 1
            found.append((at, b - at, '(' + text[at:b] + ', true)'))
        elif kind == 'hash' and tok.startswith('#define'):
            m = re.match(r'#define \w+ (\d+)\b', tok)
            if m:
                found += [(at + m.start(1), len(m.group(1)), n) for n in number(m.group(1))]
        elif kind == 'name' and tok.startswith('__builtin_') and tok.endswith('_overflow'):
            b = toks[closing(toks, i + 1)][2] + 1
            found.append((at, b - at, '(' + text[at:b] + ', 0)'))
            found.append((at, b - at, '(' + text[at:b] + ', 1)'))
    for first, last in statements(toks):
        if is_expression(toks, first, last):
            a, b = toks[first][2], toks[last][2]
            if b - a < 2000:
                found.append((a, b - a, ''))
    return sorted(set(found))


def describe(text, mutant):
    """Line number, the line before and after, as they stand in equivalent.txt."""
    at, length, new = mutant
    line = text.count('\n', 0, at) + 1
    begin = text.rfind('\n', 0, at) + 1
    end = text.find('\n', at + length)
    squeeze = (lambda s: ' '.join(s.split()))
    return line, squeeze(text[begin:end]), squeeze(text[begin:at] + new + text[at + length:end])


class Builder:
    """Compiles one changed file and links the programs with it."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as f:
            self.commands = json.load(f)
        self.links = {}

    def compiler(self, source):
        """Its compiler and options; the static library has the objects of the shared one."""
        for c in self.commands:
            if os.path.realpath(os.path.join(c['directory'], c['file'])) == source:
                out, skip = [], False
                for w in shlex.split(c['command']):
                    if skip:
                        skip = False
                    elif w in ('-o', '-MF', '-MQ', '-c'):
                        skip = True
                    elif not re.match(r'-(O|g|MD|W|f(profile|coverage|sanitize))', w):
                        out.append(w)
                return out
        sys.exit('%s is not compiled in %s' % (source, self.build))

    def compile(self, source, changed, out, options, include=None):
        words = self.compiler(source)
        words[1:1] = (['-I' + include] if include else []) + ['-I' + os.path.dirname(source)]
        return subprocess.run(words + options + ['-w', '-c', changed, '-o', out], cwd=self.build,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              check=False).returncode == 0

    def link(self, program, objects, out):
        """The program with these objects before the library, whose own are then not taken."""
        if program not in self.links:
            ran = subprocess.run(['ninja', '-t', 'commands', '-s', program], cwd=self.build, check=True,
                                 capture_output=True, text=True)
            self.links[program] = ran.stdout.strip().split('\n')[-1]
        words = shlex.split(self.links[program])
        for o in [o for o in objects if os.path.basename(o).startswith('tests_')]:
            objects = [x for x in objects if x != o] # in the place of the program's own
            end = 'test_%s.p/%s' % tuple(os.path.basename(o).split('_', 2)[1:])
            words = [o if w.endswith(end) else w for w in words]
        words[words.index('-o') + 1] = out
        at = words.index('-Wl,--as-needed')
        return subprocess.run(words[:at] + objects + words[at:], cwd=self.build, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode == 0

    def run(self, program, arguments, limit):
        """(status, seconds)."""
        scratch = tempfile.mkdtemp(dir=self.folder)
        env = dict(os.environ, TMPDIR=scratch, LLVM_PROFILE_FILE='/dev/null', MALLOC_PERTURB_='0',
                   QSAE_LONG_TESTS='0' if SHORT in arguments else '1')

        def limits():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

        start = time.monotonic()
        try:
            status = subprocess.run([program] + arguments, cwd=self.build, env=env, timeout=limit,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                                    preexec_fn=limits).returncode
        except subprocess.TimeoutExpired:
            status = 'time'
        shutil.rmtree(scratch, ignore_errors=True)
        return status, time.monotonic() - start


def objects_of(builder, name, text, folder):
    """Writes the (changed) text of `name` and compiles what it is part of; None if that fails."""
    if name in INCLUDED_BY:
        header = os.path.join(folder, 'inc', name)
        os.makedirs(os.path.dirname(header), exist_ok=True)
        with open(header, 'w', encoding='utf-8') as f:
            f.write(text)
        out = []
        for c in builder.commands:
            source = os.path.realpath(os.path.join(c['directory'], c['file']))
            part = os.path.relpath(source, ROOT)
            if any(part.startswith(p) for p in INCLUDED_BY[name]):
                out.append(os.path.join(folder, part.replace('/', '_') + '.o'))
                if not builder.compile(source, source, out[-1], ['-O0', '-g0'], os.path.join(folder, 'inc')):
                    return None
        return out
    changed = os.path.join(folder, os.path.basename(name))
    with open(changed, 'w', encoding='utf-8') as f:
        f.write(text)
    source = os.path.join(ROOT, 'libqsae', name)
    out = os.path.join(folder, 'mutant.o')
    return [out] if builder.compile(source, changed, out, ['-O0', '-g0']) else None


def optimized(builder, name, text, folder):
    """The object of gcc/clang -O2, to see that a change is none."""
    changed = os.path.join(folder, os.path.basename(name))
    with open(changed, 'w', encoding='utf-8') as f:
        f.write(text)
    out = os.path.join(folder, 'optimized.o')
    if name in INCLUDED_BY or not builder.compile(os.path.join(ROOT, 'libqsae', name), changed, out,
                                                  ['-O2', '-g0']):
        return None
    with open(out, 'rb') as f:
        return f.read()


def known_equivalent():
    known = {}
    with open(os.path.join(HERE, 'equivalent.txt'), encoding='utf-8') as f:
        for line in f:
            if line.strip() and not line.startswith('#'):
                name, old, new, reason = (x.strip() for x in line.rstrip('\n').split(' ~ '))
                known[name, old, new] = reason
    return known


def one_file(builder, name, options, known, folder):
    with open(os.path.join(ROOT, 'libqsae', name), encoding='utf-8') as f:
        text = f.read()
    every = mutants(text)
    if options.lines:
        low, high = map(int, options.lines.split('-'))
        every = [m for m in every if low <= describe(text, m)[0] <= high]
    chosen = every
    if options.sample and len(every) > options.sample:
        chosen = sorted(random.Random('%s %d' % (name, options.seed)).sample(every, options.sample))
    programs = [shlex.split(p) for p in TESTS[name]]
    limits = []
    objects = objects_of(builder, name, text, folder)
    for k, (program, *arguments) in enumerate(programs):
        out = os.path.join(folder, 'program%d' % k)
        if objects is None or not builder.link(program, objects, out):
            sys.exit('%s: the unchanged file does not build' % name)
        status, seconds = builder.run(out, arguments, 600)
        if status != 0:
            sys.exit('%s: %s fails with the unchanged file' % (name, program))
        limits.append(10 * seconds + 5)
    plain = optimized(builder, name, text, folder)
    counts = {'killed': 0, 'survived': 0, 'equivalent': 0, 'invalid': 0}
    for m in chosen:
        changed = text[:m[0]] + m[2] + text[m[0] + m[1]:]
        line, old, new = describe(text, m)
        objects = objects_of(builder, name, changed, folder)
        verdict = 'invalid' if objects is None else 'survived'
        for k, (program, *arguments) in enumerate(programs):
            if verdict != 'survived':
                break
            out = os.path.join(folder, 'program%d' % k)
            if not builder.link(program, objects, out):
                verdict = 'invalid'
            elif builder.run(out, arguments, limits[k])[0] != 0:
                verdict = 'killed'
        if verdict == 'survived' and ((name, old, new) in known or
                                      (plain and optimized(builder, name, changed, folder) == plain)):
            verdict = 'equivalent'
        counts[verdict] += 1
        if verdict == 'survived':
            print('%s:%d: survived\n    %s\n    %s' % (name, line, old, new), flush=True)
    judged = counts['killed'] + counts['survived']
    share = 100.0 * counts['killed'] / judged if judged else 100.0
    print('%s: %d of %d mutants: %d killed, %d survived, %d equivalent, %d do not build: %.1f%%' % (
        name, len(chosen), len(every), counts['killed'], counts['survived'], counts['equivalent'],
        counts['invalid'], share), flush=True)
    return share >= LEAST


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('build')
    parser.add_argument('files', nargs='*')
    parser.add_argument('--sample', type=int, default=0)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--lines', default='')
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    files = options.files or list(TESTS)
    unknown = [f for f in files if f not in TESTS]
    if unknown:
        sys.exit('no tests are named for %s; known: %s' % (' '.join(unknown), ' '.join(TESTS)))
    needed = sorted({p.split()[0] for f in files for p in TESTS[f]})
    subprocess.run(['ninja', '-C', options.build] + needed, check=True, stdout=subprocess.DEVNULL)
    print('seed %d, %s' % (options.seed, '%d per file' % options.sample if options.sample else 'all'))
    known = known_equivalent()
    good = True
    place = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None # in memory: tests write many files
    with tempfile.TemporaryDirectory(prefix='qsae-mutants-', dir=place) as folder:
        builder = Builder(options.build, folder)
        for name in files:
            good = one_file(builder, name, options, known, folder) and good
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
