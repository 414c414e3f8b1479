# SPDX-License-Identifier: BSD-2-Clause
"""The ctypes mirrors against the C headers."""

import ctypes
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest

from support import ROOT, Case

from qsae import _lib, _structs

INCLUDE = os.path.join(ROOT, "include")


def compiler():
    command = shlex.split(os.environ.get("CC", "cc"))
    if not shutil.which(command[0]):
        raise unittest.SkipTest(f"no C compiler ({command[0]})")
    return command


def headers():
    """All headers without comments, in one string."""
    out = []
    for path in sorted(glob.glob(os.path.join(INCLUDE, "qsae", "*.h"))):
        with open(path, encoding="utf-8") as file:
            out.append(re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.S))
    return "\n".join(out)


def prototypes():
    """name: (result, [parameter...]) as C text."""
    out = {}
    pattern = r"QSAE_API\s+([\w\s*]+?)\b(qsae_\w+)\s*\(([^)]*)\)\s*;"
    for result, name, parameters in re.findall(pattern, headers()):
        parameters = " ".join(parameters.split())
        out[name] = (result.strip(), [] if parameters == "void" else parameters.split(", "))
    return out


INTEGERS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint32_t": ctypes.c_uint32,
            "uint64_t": ctypes.c_uint64, "size_t": ctypes.c_size_t, "float": ctypes.c_float,
            "double": ctypes.c_double, "qsae_line_callback": _structs.LINE,
            "qsae_probe_callback": _structs.PROBE_SCORE}


CALLBACKS = {"qsae_log_callback": _structs.LOG, "qsae_progress_callback": _structs.PROGRESS,
             "qsae_observer": _structs.OBSERVER, "qsae_editor": _structs.OBSERVER,
             "qsae_alloc_callback": _structs.ALLOC, "qsae_free_callback": _structs.FREE}


def is_pointer(kind):
    return kind in (ctypes.c_void_p, ctypes.c_char_p) or hasattr(kind, "contents")


class Layout(Case):
    def run_c(self, body):
        """Lines printed by a C program that includes qsae.h."""
        folder = self.folder()
        source, program = os.path.join(folder, "p.c"), os.path.join(folder, "p")
        with open(source, "w", encoding="utf-8") as file:
            file.write("#include <stddef.h>\n#include <stdio.h>\n#include <qsae/qsae.h>\n"
                       f"int main(void)\n{{\n{body}\nreturn 0;\n}}\n")
        done = subprocess.run([*compiler(), "-std=c11", "-I", INCLUDE, source, "-o", program],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return subprocess.run([program], capture_output=True, text=True, check=True) \
            .stdout.splitlines()

    def test_every_struct_is_mirrored(self):
        named = set(re.findall(r"typedef struct (qsae_\w+) \{", headers()))
        self.assertEqual(named, set(_structs.STRUCTS))

    def test_sizes_and_offsets(self):
        expected, body = [], []
        for name, struct in _structs.STRUCTS.items():
            expected.append(f"{name} {ctypes.sizeof(struct)}")
            body.append(f'printf("{name} %zu\\n", sizeof({name}));')
            for member, *_ in struct._fields_:
                at = getattr(struct, member)
                expected.append(f"{name}.{member} {at.offset} {at.size}")
                body.append(f'printf("{name}.{member} %zu %zu\\n", offsetof({name}, {member}), '
                            f"sizeof((({name} *)0)->{member}));")
        found = self.run_c("\n".join(body))
        self.assertGreater(len(found), 150)
        self.assertEqual(found, expected)

    def test_no_member_is_missing(self):
        for name, body in re.findall(r"typedef struct (qsae_\w+) \{(.*?)\n\}", headers(), re.S):
            members = re.findall(r"(\w+)(?:\[\d+\])?\s*[;,]", body)
            mirrored = [member for member, *_ in _structs.STRUCTS[name]._fields_]
            self.assertEqual(members, mirrored, name)

    def test_constants(self):
        named = set(re.findall(r"^#define (QSAE_[A-Z0-9_]+) +\d", headers(), re.M))
        self.assertEqual(named, set(_structs.CONSTANTS))
        body = "\n".join(f'printf("{name} %d\\n", {name});' for name in _structs.CONSTANTS)
        self.assertEqual(self.run_c(body), [f"{k} {v}" for k, v in _structs.CONSTANTS.items()])

    def test_the_library_tells_the_same(self):
        # qsae_layout_get against the headers: every struct, member, type and constant, no more.
        found, body = {}, []
        for i in range(_lib.lib.qsae_layout_count()):
            entry = _structs.LayoutEntry()
            _lib.lib.qsae_layout_get(i, ctypes.byref(entry))
            name = entry.name.decode()
            self.assertNotIn(name, found)
            found[name] = entry
            struct, dot, member = name.partition(".")
            if entry.kind == _structs.LAYOUT_CONSTANT:
                self.assertEqual((entry.size, entry.type), (0, b""))
                body.append(f'printf("%d\\n", (int){name});')
            elif dot:
                body.append(f'printf("%zu %zu\\n", offsetof({struct}, {member}), '
                            f"sizeof((({struct} *)0)->{member}));")
            else:
                body.append(f'printf("0 %zu\\n", sizeof({struct}));')
        expected = [str(e.value) if e.kind == _structs.LAYOUT_CONSTANT else f"{e.value} {e.size}"
                    for e in found.values()]
        self.assertEqual(self.run_c("\n".join(body)), expected)
        mirrored = set(_structs.layout()) | {"QSAE_API_VERSION_MINOR", "QSAE_API_VERSION_PATCH"}
        self.assertEqual(mirrored - set(found), set())
        macros = re.findall(r"^ +X\((\w+),", headers(), re.M)
        self.assertGreater(len(macros), 50)
        self.assertEqual(set(found) - mirrored, {"QSAE_" + name for name in macros})

    def test_types_of_members(self):
        for name, entry in self.entries().items():
            if entry.kind != _structs.LAYOUT_MEMBER:
                continue
            struct, member = name.split(".")
            mirror = dict(f[:2] for f in _structs.STRUCTS[struct]._fields_)[member]
            text = entry.type.decode()
            plain, _, length = text.partition("[")
            if length:
                self.assertEqual(mirror._length_, int(length[:-1]), name)
                mirror = mirror._type_
            if plain.endswith("*"):
                self.assertTrue(is_pointer(mirror), name)
                self.assertEqual(mirror is ctypes.c_char_p, plain == "const char *", name)
            elif plain in INTEGERS:
                self.assertIs(mirror, INTEGERS[plain], name)
            else:
                self.assertIs(mirror, CALLBACKS[plain], name)

    def entries(self):
        out = {}
        for i in range(_lib.lib.qsae_layout_count()):
            entry = _structs.LayoutEntry()
            _lib.lib.qsae_layout_get(i, ctypes.byref(entry))
            out[entry.name.decode()] = entry
        return out

    def test_layout_misuse(self):
        call, n = _lib.lib.qsae_layout_get, _lib.lib.qsae_layout_count()
        for i in (-1, n, 2**62):
            self.fails("QSAE_EINVAL", f"there are {n} entries", call, i,
                       ctypes.byref(_structs.LayoutEntry()))
        self.fails("QSAE_EINVAL", "NULL", call, 0, None)
        short = _structs.LayoutEntry()
        short.struct_size = 0
        self.fails("QSAE_EINVAL", "struct_size", call, 0, ctypes.byref(short))
        short.struct_size = 16  # no more than the name
        call(0, ctypes.byref(short))
        self.assertEqual((short.type, short.size), (None, 0))

    def test_statuses(self):
        found = self.run_c('#define P(name, number, text) printf("QSAE_%s %d\\n", #name, number);\n'
                           "QSAE_STATUS_MAP(P)")
        self.assertEqual(found, [f"{name} {number}" for name, number in _lib.STATUS.items()])

    def test_every_function_is_bound(self):
        self.assertEqual(set(prototypes()), set(_structs.PROTOTYPES))

    def test_prototypes(self):
        for name, (result, parameters) in prototypes().items():
            with self.subTest(name):
                mirrored_result, *mirrored = _structs.PROTOTYPES[name]
                if mirrored_result is _structs.Status:
                    self.assertEqual(result, "int32_t")
                elif mirrored_result is None:
                    self.assertEqual(result, "void")
                elif result.endswith("*"):
                    self.assertEqual(mirrored_result, ctypes.c_char_p)
                else:
                    self.assertEqual(mirrored_result, INTEGERS[result])
                self.assertEqual(len(mirrored), len(parameters))
                for text, kind in zip(parameters, mirrored):
                    if "*" in text:
                        self.assertTrue(is_pointer(kind), text)
                        struct = getattr(kind, "_type_", None)
                        if "*const *" in text and struct is not ctypes.c_char_p:
                            struct = struct._type_
                        for c_name, mirror in _structs.STRUCTS.items():
                            self.assertEqual(struct is mirror, re.search(rf"\b{c_name} ", text)
                                             is not None, text)
                    else:
                        self.assertEqual(kind, INTEGERS[text.split()[0]], text)

    def test_calls_that_return_no_status(self):
        # int32_t results that are not statuses must not raise when they are negative.
        plain = {name for name, (result, *_) in _structs.PROTOTYPES.items()
                 if result is ctypes.c_int32}
        self.assertEqual(plain, {
            "qsae_status_count", "qsae_context_threads", "qsae_dtype_bits", "qsae_dtype_block",
            "qsae_dtype_from_name", "qsae_tokenizer_is_special", "qsae_bos_from_name",
            "qsae_pack_from_name", "qsae_site_from_name", "qsae_model_site",
            "qsae_qmatrix_field_count", "qsae_metric_count"})


class Loading(Case):
    def load(self, library):
        """Standard error of an import that fails."""
        path = os.pathsep.join(sys.path)
        # A copy of the library finds what lies beside the original.
        beside = os.path.dirname(os.path.abspath(_lib.LIBRARY_PATH))
        done = subprocess.run([sys.executable, "-B", "-c", "import qsae"], capture_output=True,
                              text=True, env={**os.environ, "QSAE_LIBRARY": library,
                                              "LD_LIBRARY_PATH": beside, "PYTHONPATH": path})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("ImportError: qsae: ", done.stderr)
        return done.stderr

    def stub(self, body):
        folder = self.folder()
        source, library = os.path.join(folder, "stub.c"), os.path.join(folder, "libqsae.so")
        with open(source, "w", encoding="utf-8") as file:
            file.write(body)
        subprocess.run([*compiler(), "-shared", "-fPIC", source, "-o", library], check=True)
        return library

    def test_missing_library(self):
        self.assertIn("/nowhere/libqsae.so", self.load("/nowhere/libqsae.so"))

    def test_other_library(self):
        self.assertIn("is not libqsae", self.load(self.stub("int x;\n")))

    def test_other_major_version(self):
        body = "unsigned qsae_version_api(void) { return 9u << 16; }\n"
        self.assertIn("has API 9.0", self.load(self.stub(body)))

    def changed(self, names):
        """A copy of the library in whose layout table names are replaced by others as long."""
        with open(_lib.LIBRARY_PATH, "rb") as file:
            content = file.read()
        at = {old: content.index(old + b"\0") for old in names}
        for old, new in names.items():
            self.assertEqual(len(old), len(new))
            content = content[:at[old]] + new + content[at[old] + len(old):]
        library = os.path.join(self.folder(), "libqsae.so")
        with open(library, "wb") as file:
            file.write(content)
        return library

    def test_stale_layout(self):
        said = self.load(self.changed({b"qsae_tap.observe": b"qsae_tap.0bserve"}))
        self.assertIn("lacks qsae_tap.observe: it is older than this package", said)

    def test_other_layout(self):
        # Two members that have changed places.
        document, position = b"qsae_positions.document", b"qsae_positions.position"
        said = self.load(self.changed({document: position, position: document}))
        self.assertIn("does not fit this package: qsae_positions.", said)

    def test_older_library(self):
        body = "unsigned qsae_version_api(void) { return 1u << 8; }\n"
        self.assertIn("lacks qsae_version", self.load(self.stub(body)))
