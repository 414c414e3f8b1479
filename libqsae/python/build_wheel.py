#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Builds a wheel of the package with the shared library and all it needs beyond glibc inside.

usage: build_wheel.py LIBRARY [-o FOLDER] [--license NAME=FILE]...

Needs Python 3.11, patchelf and binutils. The libraries get names of their own (a hash in them, as
auditwheel does), so that they never meet other copies in the process. Their licences come from
/usr/share/doc/PACKAGE/copyright; --license gives one that is not there.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Part of every system that a manylinux wheel is for (PEP 600).
SYSTEM = re.compile(r"(ld-linux.*|linux-vdso|libc|libm|libdl|librt|libpthread|libutil|libresolv"
                    r"|libnsl|libgcc_s|libstdc\+\+)\.so(\.|$)")


class Failure(Exception):
    """Why there is no wheel."""


def run(*command: object) -> str:
    """Standard output of a program."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, check=True, text=True, capture_output=True).stdout
    except FileNotFoundError:
        raise Failure(f"expected the program {words[0]}, found none") from None
    except subprocess.CalledProcessError as error:
        raise Failure(f"{' '.join(words)}: {error.stderr.strip()}") from None


def needed(library: Path) -> dict[str, Path]:
    """Name and file of each library that must be bundled, those of others among them."""
    out = {}
    for line in run("ldd", library).splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        name = os.path.basename(name.split(" ")[0])
        if not arrow or SYSTEM.match(name):
            continue
        if rest.startswith("not found"):
            raise Failure(f"{library}: needs {name}, which is not found")
        out[name] = Path(rest.rsplit(" (", 1)[0])
    return out


def direct(library: Path) -> list[str]:
    """Names of the libraries that a file names itself."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-dW", library))


def package_of(library: Path) -> str | None:
    """Debian package of a file, under either name of a merged /usr."""
    for path in dict.fromkeys([library, library.resolve()]):
        for name in (str(path), str(path).removeprefix("/usr"), f"/usr{path}"):
            found = subprocess.run(["dpkg-query", "-S", name], text=True, capture_output=True,
                                   check=False)
            if found.returncode == 0:
                return found.stdout.split(":")[0]
    return None


def license_of(name: str, library: Path, given: dict[str, Path]) -> tuple[str, str]:
    """Name and text of a library's licence."""
    stem = name.split(".so")[0]
    if stem in given:
        return stem, given[stem].read_text(encoding="utf-8")
    package = package_of(library) if shutil.which("dpkg-query") else None
    path = Path("/usr/share/doc") / (package or stem) / "copyright"
    if not path.exists():
        raise Failure(f"{library}: expected its licence in {path}, found none: give it with "
                      f"--license {stem}=FILE")
    return package or stem, path.read_text(encoding="utf-8", errors="replace")


def licenses(bundled: dict[str, Path], given: dict[str, Path]) -> dict[str, bytes]:
    """Files of the folder licenses: ours, theirs, and the common texts that theirs refer to."""
    out = {"libqsae": (ROOT / "COPYING").read_bytes()}
    for name, library in bundled.items():
        owner, text = license_of(name, library, given)
        out[owner] = text.encode()
        for common in re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])", text):
            path = Path("/usr/share/common-licenses") / common
            if path.exists():
                out[f"common-{common}"] = path.read_bytes()
    return out


def bundle(library: Path, folder: Path) -> dict[str, Path]:
    """Copies the library and what it needs into a folder; their own names and where they lay."""
    found = needed(library)
    files = {"libqsae.so.0": library, **found}
    names = {"libqsae.so.0": "libqsae.so.0"}
    for name, path in found.items():
        stem, _, rest = name.partition(".so")
        names[name] = f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.so{rest}"
    for name, path in files.items():
        copy = folder / names[name]
        shutil.copyfile(path, copy)
        copy.chmod(0o755)
        if shutil.which("strip"):
            run("strip", "--strip-unneeded", copy)
        # One change at a time: patchelf 0.14 mixes up the strings of several.
        for other in direct(copy):
            if other in names:
                run("patchelf", "--replace-needed", other, names[other], copy)
        run("patchelf", "--set-soname", names[name], copy)
        run("patchelf", "--set-rpath", "$ORIGIN", copy)
    return found


def platform_tag(folder: Path) -> str:
    """The tag of the oldest glibc that has all that the files in a folder ask for."""
    newest = (0, 0)
    for library in folder.iterdir():
        for major, minor in re.findall(r"Name: GLIBC_(\d+)\.(\d+)",
                                       run("readelf", "-VW", library)):
            newest = max(newest, (int(major), int(minor)))
    machine = platform.machine()
    if newest == (0, 0):
        return f"linux_{machine}"
    return f"manylinux_{newest[0]}_{newest[1]}_{machine}"


def metadata(version: str, license_names: list[str]) -> dict[str, str]:
    """The text files of dist-info, but for RECORD and WHEEL."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {version}",
             f"Summary: {project['description']}", f"License: {project['license']['text']}",
             f"Requires-Python: {project['requires-python']}",
             *(f"Requires-Dist: {name}" for name in project["dependencies"])]
    for extra, packages in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {name} ; extra == "{extra}"' for name in packages]
    lines += [f"License-File: {name}" for name in license_names]
    lines += ["Description-Content-Type: text/markdown", "",
              (HERE / project["readme"]).read_text(encoding="utf-8")]
    scripts = "".join(f"{name} = {target}\n" for name, target in project["scripts"].items())
    return {"METADATA": "\n".join(lines), "entry_points.txt": f"[console_scripts]\n{scripts}",
            "top_level.txt": f"{project['name']}\n"}


def release() -> str:
    """The release number, which meson.build keeps."""
    found = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text("utf-8"), re.M)
    if found is None:
        raise Failure(f"{ROOT / 'meson.build'}: expected version: '...', found none")
    return found.group(1)


def write(path: Path, files: dict[str, bytes], record: str) -> None:
    """Writes the wheel, in an order and with times that depend on nothing."""
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(data)}\n")
    files = {**files, record: ("".join(lines) + f"{record},,\n").encode()}
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file, \
            zipfile.ZipFile(file, "w") as out:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if ".so" in name else 0o100644) << 16
            out.writestr(entry, data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def build(library: Path, output: Path, given: dict[str, Path]) -> Path:
    """Makes the wheel; its path."""
    version = release()
    info = f"qsae-{version}.dist-info"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundled = bundle(library, folder)
        tag = f"py3-none-{platform_tag(folder)}"
        texts = licenses(bundled, given)
        files = {}
        for path in sorted((HERE / "qsae").rglob("*")):
            inside = path.relative_to(HERE)
            if path.is_file() and "__pycache__" not in inside.parts and ".so" not in path.name \
                    and path.name != "_installed.py":
                files[inside.as_posix()] = path.read_bytes()
        for path in sorted(folder.iterdir()):
            files[f"qsae/{path.name}"] = path.read_bytes()
        for owner, text in sorted(texts.items()):
            files[f"{info}/licenses/{owner}"] = text
        for name, content in metadata(version, sorted(texts)).items():
            files[f"{info}/{name}"] = content.encode()
        files[f"{info}/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: libqsae build_wheel.py\nRoot-Is-Purelib: false\n"
            f"Tag: {tag}\n").encode()
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"qsae-{version}-{tag}.whl"
        write(path, files, f"{info}/RECORD")
    return path


def pair(text: str) -> tuple[str, Path]:
    """NAME=FILE of an option."""
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, found {text!r}")
    return name, Path(path)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="libqsae.so of a build")
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder (.)")
    parser.add_argument("--license", type=pair, action="append", default=[], metavar="NAME=FILE",
                        help="licence of a library that is bundled: libblis=LICENSE")
    options = parser.parse_args()
    try:
        print(build(options.library.resolve(), options.output, dict(options.license)))
    except (Failure, OSError) as error:
        print(f"build_wheel.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
