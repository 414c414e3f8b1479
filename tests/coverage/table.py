# SPDX-License-Identifier: BSD-2-Clause
"""Rows per file from llvm-cov's JSON, and a comparison with floors.txt.

usage: table.py COVERAGE.json SOURCE_ROOT [--quick | --state] [--update] [--show FILE...]
--show lists the places of these files that were not reached, defensive ones too.
"""
import fnmatch
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GROUPS = [
    ('parsers', 'formats/*.c formats/*.h core/checked.h core/file.c text/bpe_read.c text/unigram_read.c '
                'text/vocab.c text/files.c text/template.c text/normalize.c text/probes.c text/filter.c '
                'text/gguf*.c text/join.c sae/config.c sae/saelens.c sae/gemma_scope.c sae/sparsify.c '
                'sae/dictionary_learning.c sae/openmoss.c sae/circuit_tracer.c model/config.c '
                'model/gguf_keys.c model/layer_types.c codecs/compressed_read.c'),
    ('state', 'core/output.c core/spool.c metrics/state.c metrics/parts.h metrics/prefix.c metrics/shards.c '
              'audit/state.c audit/merge.c audit/parts.c audit/coverage.c'),
    ('kernels', 'kernels/*'),
    ('rest', '*'),
]


def group_of(path):
    for name, patterns in GROUPS:
        if any(fnmatch.fnmatch(path, p) for p in patterns.split()):
            return name
    return 'rest'


def defensive(root):
    """{file: [text]} of defensive.txt; a text that no line of the file holds is an error."""
    places = {}
    with open(os.path.join(HERE, 'defensive.txt'), encoding='utf-8') as f:
        for line in f:
            if line.strip() and not line.startswith('#'):
                path, text, reason = (x.strip() for x in line.split(' | '))
                text = text.replace('\\|', '|')
                with open(os.path.join(root, 'libqsae', path), encoding='utf-8') as source:
                    if text not in ' '.join(source.read().split()) or not reason:
                        sys.exit('defensive.txt: %s: no line has "%s", or no reason is given' % (path, text))
                places.setdefault(path, []).append(text)
    return places


class File:
    """Branches and decisions of one source file; those of a function in several objects are one."""

    def __init__(self, data, path, excused):
        self.path = path
        self.group = group_of(path)
        with open(data['filename'], encoding='utf-8') as f:
            self.source = f.read().split('\n')
        self.excused = excused
        self.used = set()
        lines = data['summary']['lines']
        self.lines = (lines['covered'], lines['count'])
        self.missing = []
        branches, decisions = {}, {}
        for b in data.get('branches', []):
            have = branches.setdefault(tuple(b[:4]), [0, 0])
            have[0] += b[4]
            have[1] += b[5]
        for m in data.get('mcdc_records', []):
            have = decisions.setdefault(tuple(m[:4]), [False] * len(m[-1]))
            decisions[tuple(m[:4])] = [a or b for a, b in zip(have, m[-1])]
        hit = total = 0
        for (l1, c1, l2, c2), counts in sorted(branches.items()):
            for value, n in zip(('true', 'false'), counts):
                if n == 0 and self.is_excused(l1):
                    self.missing.append((l1, 'defensive: never %s: %s' % (value, self.text(l1, c1, l2, c2))))
                    continue
                total += 1
                hit += n > 0
                if n == 0:
                    self.missing.append((l1, 'never %s: %s' % (value, self.text(l1, c1, l2, c2))))
        self.branches = (hit, total)
        hit = total = 0
        for (l1, c1, l2, c2), conditions in sorted(decisions.items()):
            for i, covered in enumerate(conditions):
                if not covered and any(self.is_excused(n) for n in range(l1, l2 + 1)):
                    continue
                total += 1
                hit += covered
                if not covered:
                    self.missing.append((l1, 'condition %d alone does not decide: %s' % (
                        i + 1, self.text(l1, c1, l2, c2))))
        self.mcdc = (hit, total)

    def is_excused(self, line):
        around = ' '.join(' '.join(self.source[line - 1:line + 3]).split())
        for text in self.excused:
            if text in around:
                self.used.add(text)
                return True
        return False

    def text(self, l1, c1, l2, c2):
        if l1 == l2:
            return self.source[l1 - 1][c1 - 1:c2 - 1]
        return ' '.join([self.source[l1 - 1][c1 - 1:]] + [s.strip() for s in self.source[l1:l2 - 1]] +
                        [self.source[l2 - 1][:c2 - 1].strip()])


def percent(pair):
    return 100.0 if pair[1] == 0 else 100.0 * pair[0] / pair[1]


def row(name, parts):
    sums = [tuple(map(sum, zip(*[getattr(f, k) for f in parts]))) for k in ('lines', 'branches', 'mcdc')]
    print('%-34s' % name + ''.join('%13s %6.2f%%' % ('%d/%d' % s, percent(s)) for s in sums))


def read_floors():
    floors = {}
    try:
        with open(os.path.join(HERE, 'floors.txt'), encoding='utf-8') as f:
            for line in f:
                if not line.startswith('#') and line.strip():
                    path, branches, mcdc = line.split()
                    floors[path] = (float(branches), float(mcdc))
    except FileNotFoundError:
        pass
    return floors


def main(argv):
    if len(argv) < 3:
        sys.exit(__doc__)
    with open(argv[1], encoding='utf-8') as f:
        data = json.load(f)['data'][0]['files']
    root = argv[2]
    options = argv[3:]
    shown = options[options.index('--show') + 1:] if '--show' in options else []
    excused = defensive(root)
    only = 'parsers' if '--quick' in options else 'state' if '--state' in options else None
    files = []
    base = os.path.join(os.path.realpath(root), 'libqsae') + os.sep
    for entry in data:
        real = os.path.realpath(entry['filename'])
        if real.startswith(base):
            path = real[len(base):]
            files.append(File(entry, path, excused.get(path, [])))
    if not files:
        sys.exit('%s: no file of %s' % (argv[1], base))
    with_mcdc = any(f.mcdc[1] > 0 for f in files)
    failed = False
    floors = read_floors()
    print('%-34s%13s %7s%13s %7s%13s %7s' % ('', 'lines', '', 'branches', '', 'MC/DC', ''))
    for name, _ in GROUPS:
        parts = sorted((f for f in files if f.group == name), key=lambda f: f.path)
        if not parts or (only and name != only):
            continue
        for f in parts:
            row(f.path, [f])
            for line, what in f.missing:
                if f.path in shown or (name in ('parsers', 'state') and not what.startswith('defensive')):
                    print('    %d: %s' % (line, what))
            # What all programs together reach may be beyond those of --quick.
            for text in set(f.excused) - f.used if only else ():
                print('    defensive.txt: "%s" is reached; take the line out' % text)
                failed = True
            low = floors.get(f.path)
            if low and '--update' not in options:
                for kind, have, least in (('branches', percent(f.branches), low[0]),
                                          ('MC/DC', percent(f.mcdc), low[1])):
                    if (kind == 'branches' or with_mcdc) and have < least - 0.005:
                        print('    below floors.txt: %s %.2f%%, were %.2f%%' % (kind, have, least))
                        failed = True
        row('= ' + name, parts)
    if '--update' in options:
        if not with_mcdc:
            sys.exit('floors.txt is made with MC/DC: clang-19')
        for f in files:
            if f.branches[1] > 0 and (only is None or f.group == only):
                floors[f.path] = [x if x == 100 else max(0, int(x) - 1)
                                  for x in (percent(f.branches), percent(f.mcdc))]
        present = {f.path for f in files}
        with open(os.path.join(HERE, 'floors.txt'), 'w', encoding='utf-8') as out:
            out.write('# file, least percentage of branches and of MC/DC: what coverage.sh BUILD --update measured, one\n'
                      '# less below 100, because the calls that fail under large readers are a sample\n')
            for path, (branches, mcdc) in sorted(floors.items()):
                if path in present:
                    out.write('%s %d %d\n' % (path, branches, mcdc))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
