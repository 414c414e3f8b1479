#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Builds tests, runs them under a tool, and counts what it says.

usage: suites.py LABEL BUILD PATTERN TEST... [-- WRAPPER...]
    TEST: a name of "meson test", or NAME:GROUP for the part of a program that divides its tests
    PATTERN: begins the line of one finding; WRAPPER: a command that runs the test's command

One line per test on standard error, and what was found; the whole output is in
BUILD/suite-LABEL-TEST.log. Standard output: the number of findings. A test that fails, or takes
longer than QSAE_SECONDS (1800), is one, too. QSAE_JOBS: tests at a time.
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time


def tests_of(build):
    """{name: test} of a build folder, as "meson introspect" knows them."""
    r = subprocess.run(['meson', 'introspect', build, '--tests'], capture_output=True, text=True, check=True)
    return {t['name']: t for t in json.loads(r.stdout)}


def build_all(build, tests, jobs):
    """What the tests' commands name in the build folder."""
    inside = [os.path.relpath(os.path.join(build, c), build) for t in tests for c in t['cmd'] if '/' in c]
    listed = subprocess.run(['ninja', '-C', build, '-t', 'targets', 'all'], capture_output=True, text=True, check=True)
    outputs = {line.split(': ')[0] for line in listed.stdout.splitlines()}
    targets = sorted(set(inside) & outputs)
    if not targets: # without one ninja builds everything
        return False
    r = subprocess.run(['ninja', '-j', str(jobs), '-C', build, *targets], capture_output=True, text=True, check=False)
    if r.returncode:
        sys.stderr.write(r.stdout[-4000:])
    return r.returncode == 0


def run(label, build, wrapper, name, test, limit):
    """(name, output, what it ended with or None if well, seconds)"""
    group = name.split(':')[1:]
    env = dict(os.environ, **(test.get('env') or {}))
    began = time.monotonic()
    log = os.path.join(build, f'suite-{label}-{name.replace(":", "-")}.log')
    ended = None
    with open(log, 'wb') as out:
        try:
            r = subprocess.run(wrapper + test['cmd'] + group, cwd=test.get('workdir') or build, env=env, stdout=out,
                               stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit, check=False)
            if r.returncode not in (0, 77):
                ended = f'status {r.returncode}'
        except subprocess.TimeoutExpired:
            ended = f'not done in {limit} s'
    with open(log, encoding='utf-8', errors='replace') as f:
        text = f.read()
    if not ended and re.search(r'^not ok ', text, re.M):
        ended = 'a test fails'
    return name, text, ended, time.monotonic() - began


def main():
    args, wrapper = sys.argv[1:], []
    if '--' in args:
        wrapper = args[args.index('--') + 1:]
        args = args[:args.index('--')]
    label, build, pattern, names = args[0], os.path.realpath(args[1]), re.compile('^' + args[2], re.M), args[3:]
    known = tests_of(build)
    missing = [n for n in names if n.split(':')[0] not in known]
    if missing or not names:
        sys.exit(f'{label}: no such test: {" ".join(missing)}')
    wanted = [known[n.split(':')[0]] for n in names]
    jobs = int(os.environ.get('QSAE_JOBS', os.cpu_count() or 1))
    limit = int(os.environ.get('QSAE_SECONDS', '1800'))
    if not build_all(build, wanted, jobs):
        sys.exit(f'{label}: does not build')
    count = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for name, text, ended, seconds in pool.map(
                lambda p: run(label, build, wrapper, p[0], p[1], limit), zip(names, wanted)):
            lines = [m.start() for m in pattern.finditer(text)]
            count += len(lines) or bool(ended)
            passed = len(re.findall(r'^(?:ok |\[       OK)', text, re.M))
            print(f'{label}: {name}: {passed} cases, {len(lines)} findings, {ended or "ends well"}, {seconds:.0f} s',
                  file=sys.stderr, flush=True)
            for at in lines[:3]:
                print('\n'.join(text[at:].split('\n')[:14]), file=sys.stderr)
            if ended and not lines:
                print(text[-1500:], file=sys.stderr)
    print(count)


if __name__ == '__main__':
    main()
