# SPDX-License-Identifier: BSD-2-Clause
"""Runs the tests of the Python package and prints one TAP line per test.

usage: run.py [NAME...]    only tests whose name contains one of these
QSAE_LIBRARY and PYTHONPATH say what is tested; without them, the checkout and its newest build.
"""

import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Tap(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.bad = False

    def line(self, ok, test, note=""):
        name = test.id().replace("#", "")
        print(f"{'ok' if ok else 'not ok'} {self.testsRun} - {name}{note}", flush=True)

    def trouble(self, test, error):
        self.bad = self.failed = True
        for text in self._exc_info_to_string(error, test).rstrip().split("\n"):
            print("# " + text)

    def startTest(self, test):
        super().startTest(test)
        self.failed = False
        self.start = time.perf_counter()

    def addSuccess(self, test):
        if not self.failed:
            self.line(True, test, f" # {time.perf_counter() - self.start:.2f} s")

    def addSkip(self, test, reason):
        self.line(True, test, f" # SKIP {reason}")

    def addError(self, test, error):
        self.trouble(test, error)
        self.line(False, test)

    addFailure = addError

    def addSubTest(self, test, subtest, error):
        if error is not None:
            if not self.failed:
                self.line(False, test)
            self.trouble(subtest, error)


def chosen(suite, names):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from chosen(test, names)
        elif not names or any(name in test.id() for name in names):
            yield test


def main():
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        print(f"skipped: python ({error})")
        return 77
    sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "libqsae", "python")]
    if os.environ.get("PYTHONPATH"):
        sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.dont_write_bytecode = True
    tests = list(chosen(unittest.defaultTestLoader.discover(HERE), sys.argv[1:]))
    result = Tap()
    print(f"1..{len(tests)}", flush=True)
    unittest.TestSuite(tests).run(result)
    return 1 if result.bad or result.testsRun != len(tests) else 0


if __name__ == "__main__":
    sys.exit(main())
