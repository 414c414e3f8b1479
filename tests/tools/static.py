#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Reads the library and the programs with a tool that runs nothing: cppcheck, clang-tidy, gcc's or clang's analyzer.

usage: static.py TOOL BUILD [FILE...]      TOOL: cppcheck, tidy, analyzer, paths; FILE: only files whose path ends so

Prints each finding that TOOL.allow does not explain, and each line of TOOL.allow that explains none.
TOOL.allow: "ID FILE TEXT", where FILE ends the path of the file, or is a folder with "/" at its end, and
TEXT occurs in the source line of the finding ("*": any); "*" ends an ID that begins so. Above each line,
or each group of lines, stands its reason. "skip FILE *": these are not read by the tool. All that the tool says is in BUILD/tools-TOOL.log.
"""
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
PROGRAM = {'cppcheck': 'cppcheck', 'tidy': 'clang-tidy-14', 'analyzer': 'gcc-12', 'paths': 'clang-tidy-14'}
# It asks for memcpy_s and the like, which glibc does not have.
NO_ANNEX_K = '-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'
# "file:line:column: warning: text [id]", of clang-tidy and of gcc
LINE = re.compile(r'^(\S[^:]*):(\d+):(?:\d+:)? (?:warning|error): (.*?)(?: \[([\w.,=-]+)\])?$')


def allowed(tool):
    rules, reason = [], False
    with open(os.path.join(HERE, tool + '.allow'), encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            line = line.rstrip('\n')
            if not line or line.startswith('#'):
                reason = bool(line) and number > 1 # the first line is the licence
                continue
            if not reason:
                sys.exit(f'{tool}.allow:{number}: no reason stands above this line')
            rules.append(line.split(' ', 2) + [0])
    return rules


def commands(build, only):
    """One command of each C file of the library and of the programs."""
    with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as f:
        entries = json.load(f)
    seen = {}
    for e in entries:
        path = os.path.normpath(os.path.join(e['directory'], e['file']))
        inside = os.path.relpath(path, SOURCE)
        built = os.path.relpath(path, build)
        if not inside.startswith(('libqsae/', 'examples/')) and built != 'libqsae/layout.c':
            continue
        if path in seen or (only and not any(path.endswith(o) for o in only)):
            continue
        seen[path] = dict(e, file=path)
    return list(seen.values())


def flags(entry):
    """The arguments that say what the file means, without those that say where the object goes."""
    words, out = shlex.split(entry['command'])[1:], []
    while words:
        w = words.pop(0)
        if w in ('-o', '-MF', '-MQ', '-c'):
            words.pop(0)
        elif w not in ('-MD', '-Werror') and not w.startswith('-O'):
            out.append(w)
    return out


def known(entry):
    """What the tools do not see across files: qsae__fail returns the status that it is given."""
    return [] if entry['file'].endswith('core/status.c') else ['-include', os.path.join(HERE, 'known.h')]


def run(tool, entry, build, folder):
    """The output of the tool for one file."""
    c, cwd = entry['file'], entry['directory']
    if tool == 'analyzer':
        args = [PROGRAM[tool], *flags(entry), *known(entry), '-O1', '-fanalyzer', '-fanalyzer-verbosity=0',
                '-fdiagnostics-plain-output', '-Wno-unused-value', '-c', c, '-o', '/dev/null']
    elif tool in ('tidy', 'paths'):
        only = ['--checks=-*,clang-analyzer-*,' + NO_ANNEX_K] if tool == 'paths' else []
        args = [PROGRAM[tool], '--quiet', '--config-file=' + os.path.join(SOURCE, '.clang-tidy'), *only, c, '--', *flags(entry), *known(entry), '-w',
                '-Wno-ignored-optimization-argument']
    else:
        one = os.path.join(folder, c.replace('/', '_') + '.json')
        with open(one, 'w', encoding='utf-8') as f:
            json.dump([entry], f)
        args = [PROGRAM[tool], '--project=' + one, '--enable=warning,performance,portability', '--std=c11', '--quiet',
                '--platform=unix64', '--library=posix', '--library=' + os.path.join(HERE, 'cppcheck.cfg'),
                '--suppress=missingIncludeSystem', '--template={file}:{line}: warning: {message} [{id}]',
                '--template-location=']
    r = subprocess.run(args, cwd=cwd, capture_output=True, text=True, check=False)
    text = r.stderr + r.stdout
    if r.returncode < 0 or (tool == 'analyzer' and r.returncode):
        text += f'{c}:1: error: {PROGRAM[tool]} ends with {r.returncode} [{tool}]\n'
    return cwd, text


def findings(outputs, build):
    """{(file, line, id, text)}: a header that many files include counts once."""
    found = set()
    for cwd, text in outputs:
        for m in filter(None, map(LINE.match, text.splitlines())):
            path = os.path.normpath(os.path.join(cwd, m[1]))
            place = os.path.relpath(path, SOURCE if path.startswith(SOURCE + '/') else build)
            found.add((place, int(m[2]), m[4] or 'compiler', m[3], path))
    return sorted(found)


def source_line(path, number):
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            return f.read().split('\n')[number - 1]
    except (OSError, IndexError):
        return ''


def covers(rule, place, what, code):
    ident, file, text = rule[:3]
    return ((ident == what or (ident.endswith('*') and what.startswith(ident[:-1]))) and
            (place.startswith(file) if file.endswith('/') else place.endswith(file)) and
            (text == '*' or text in code))


def main():
    tool, build = sys.argv[1], os.path.abspath(sys.argv[2])
    if not shutil.which(PROGRAM[tool]):
        print(f'{tool}: skipped: {PROGRAM[tool]} is not installed')
        return 0
    rules = allowed(tool)
    skip = [r for r in rules if r[0] == 'skip']
    entries = []
    for e in commands(build, sys.argv[3:]):
        rule = next((r for r in skip if covers(r, os.path.relpath(e['file'], SOURCE), 'skip', '')), None)
        if rule:
            rule[3] += 1
        else:
            entries.append(e)
    if not entries:
        sys.exit(f'{tool}: no file to read in {build}')
    jobs = int(os.environ.get('QSAE_JOBS', os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        outputs = []
        with open(os.path.join(build, f'tools-{tool}.log'), 'w', encoding='utf-8') as log:
            for out in pool.map(lambda e: run(tool, e, build, folder), entries):
                outputs.append(out)
                log.write(out[1])
                log.flush()
    count = 0
    for place, line, what, text, path in findings(outputs, build):
        code = source_line(path, line)
        rule = next((r for r in rules if covers(r, place, what, code)), None)
        if rule:
            rule[3] += 1
            continue
        count += 1
        print(f'{place}:{line}: {text} [{what}]\n    {code.strip()}')
    for r in rules:
        if not r[3] and not sys.argv[3:]:
            count += 1
            print(f'{tool}.allow: explains nothing: {" ".join(r[:3])}')
    explained = sum(r[3] for r in rules if r not in skip)
    print(f'{tool}: {count} findings in {len(entries)} files ({explained} explained by '
          f'{tool}.allow, {sum(r[3] for r in skip)} files not read)')
    return 1 if count else 0


if __name__ == '__main__':
    sys.exit(main())
