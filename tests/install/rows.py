# SPDX-License-Identifier: BSD-2-Clause
"""The program rows: streams that NumPy writes, against formulas in NumPy; damaged ones. Prints TAP.
usage: rows.py ROWS SAE    ROWS_MUTATIONS in the environment: how many damaged streams (60)
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading

try:
    import numpy as np
except ImportError:
    print("1..0 # SKIP NumPy is missing")
    sys.exit(0)

PROGRAM, SAE = sys.argv[1:3]
WIDTH = 128
results = []


def case(name, good, detail=""):
    results.append(good)
    print(f"{'ok' if good else 'not ok'} {len(results)} - {name}")
    if not good:
        print("# " + str(detail).replace("\n", "\n# "))


def stream(x, layer=3, count=None, positions=None, dtype=1, version=1, flags=None, columns=None):
    """The bytes of doc/rows.md."""
    if flags is None:
        flags = int(positions is not None)
    head = struct.pack("<8sHHIIiq", b"QSAEROWS", version, dtype, flags,
                       x.shape[1] if columns is None else columns, layer,
                       len(x) if count is None else count)
    if dtype == 1:
        raw = x.astype("<f4")
    elif dtype == 2:
        raw = x.astype("<f2")
    else:
        raw = (x.astype("<f4").view("<u4") >> 16).astype("<u2")
    if positions is None:
        return head + raw.tobytes()
    return head + b"".join(struct.pack("<qq", *p) + r.tobytes() for p, r in zip(positions, raw))


def run(*streams, sae=True, stdin=None):
    """Exit status, name: values, what it said."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for i, data in enumerate(streams):
            names.append("-" if data is None else os.path.join(folder, str(i)))
            if data is not None:
                with open(names[-1], "wb") as file:
                    file.write(data)
        done = subprocess.run([PROGRAM, "--threads", "1"] + (["--sae", SAE] if sae else []) + names,
                              input=stdin, capture_output=True, timeout=60)
    lines = map(str.split, done.stdout.decode().splitlines())
    values = {words[0]: [float(v) for v in words[1:]] for words in lines}
    return done.returncode, values, done.stderr.decode()


def close(a, b):
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-9)


def sae_weights():
    with open(os.path.join(SAE, "sae_weights.safetensors"), "rb") as file:
        data = file.read()
    size = int.from_bytes(data[:8], "little")
    out = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            a, b = entry["data_offsets"]
            out[name] = np.frombuffer(data[8 + size + a:8 + size + b], "<f4").reshape(
                entry["shape"]).astype(np.float64)
    return out


def reconstruct(x, w):
    """JumpReLU without b_dec in front, as the bundled SAE's cfg.json says."""
    pre = x @ w["W_enc"] + w["b_enc"]
    acts = np.where(pre > w["threshold"], np.maximum(pre, 0), 0)
    return acts, acts @ w["W_dec"] + w["b_dec"]


def main():
    rng = np.random.default_rng(7)
    w = sae_weights()
    active = rng.random((700, w["W_dec"].shape[0])) < 0.02
    x = (active * rng.gamma(2, 4, active.shape)) @ w["W_dec"] + w["b_dec"]
    x = (x + rng.normal(0, 0.3, x.shape)).astype(np.float32)
    q = (x + rng.normal(0, 0.2, x.shape)).astype(np.float32)
    acts, y = reconstruct(x.astype(np.float64), w)
    acts_q, y_q = reconstruct(q.astype(np.float64), w)
    fvu = ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()

    code, one, said = run(stream(x))
    case("one stream: FVU and L0 are NumPy's",
         code == 0 and close(one["fvu_dim"][0], fvu) and one["tokens"] == [700] and
         close(one["l0"][0], (acts > 0).sum(1).mean()), f"{code} {one} {fvu} {said}")
    for name, data in (("no length in the header", stream(x, count=-1)),
                       ("no layer", stream(x, layer=-1)),
                       ("positions", stream(x, positions=[(i, 0) for i in range(700)])),
                       ("positions, no length",
                        stream(x, count=-1, positions=[(i, i // 50) for i in range(700)])),
                       ("positions with gaps",
                        stream(x, positions=[(i + i // 99 * 1000, 0) for i in range(700)]))):
        code, got, said = run(data)
        case(f"{name}: the same FVU", code == 0 and close(got["fvu_dim"][0], one["fvu_dim"][0]),
             f"{code} {got} {said}")
    code, got, said = run(None, stdin=stream(x, count=-1))
    case("through stdin", code == 0 and got == one, f"{code} {got} {said}")
    for dtype, label in ((2, "f16"), (3, "bf16")):
        bits = x.astype("<f2").astype(np.float32) if dtype == 2 else (
            (x.view("<u4") >> 16 << 16).astype("<u4").view("<f4"))
        code, got, said = run(stream(bits, dtype=dtype))
        code2, want, _ = run(stream(bits))
        case(f"{label} rows are those values", code == code2 == 0 and got == want,
             f"{got} {want} {said}")

    code, pair, said = run(stream(x), stream(q, layer=-1))
    p = np.sqrt(((q - x) ** 2.0).sum() / (x ** 2.0).sum())
    r = np.sqrt(((q - y_q) ** 2).sum() / (q ** 2.0).sum())
    case("two streams: noise floor is NumPy's",
         code == 0 and close(pair["P"][0], p) and close(pair["R_q"][0], r) and
         close(pair["ratio"][0], p / r), f"{code} {pair} {p} {r} {said}")
    r_of = [np.corrcoef(acts[:, j], acts_q[:, j])[0, 1] if acts_q[:, j].any() else 0.0
            for j in range(acts.shape[1]) if (acts[:, j] > 0).mean() > 0.001]
    case("two streams: survival is NumPy's",
         pair["active"] == [len(r_of)] and pair["survived"] == [sum(v > 0.9 for v in r_of)] and
         abs(pair["mean_r"][0] - np.mean(r_of)) < 1e-6, f"{pair} {np.mean(r_of)}")
    code, got, said = run(None, stream(q, positions=[(i, 0) for i in range(700)]), stdin=stream(x))
    case("one of two says positions, the other comes by stdin", code == 0 and got == pair,
         f"{got} {said}")
    code, got, said = run(stream(x), stream(q), sae=False)
    case("without an SAE: P", code == 0 and close(got["P"][0], p) and list(got) == ["P"],
         f"{got} {said}")
    code, got, said = run(stream(x), stream(x))
    case("the same stream twice: no drift, all survive",
         code == 0 and got["P"] == [0] and got["survived_percent"] == [100], got)

    with tempfile.TemporaryDirectory() as folder:
        pipes = [os.path.join(folder, n) for n in "rq"]
        for pipe in pipes:
            os.mkfifo(pipe)

        def write():
            with open(pipes[0], "wb") as a, open(pipes[1], "wb") as b:
                for file, rows in ((a, x), (b, q)):
                    file.write(stream(rows, count=-1)[:32])
                for i in range(0, 700, 90):
                    a.write(x[i:i + 90].tobytes())
                    b.write(q[i:i + 90].tobytes())
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        done = subprocess.run([PROGRAM, "--threads", "1", "--sae", SAE] + pipes,
                              capture_output=True, timeout=60)
        writer.join()
    case("two pipes",
         done.returncode == 0 and f"{pair['ratio'][0]:.8g}" in done.stdout.decode(), done)

    small = stream(x[:5])
    five = [(i, 0) for i in range(5)]
    refusals = {
        "empty": (b"", "32 bytes"), "short header": (small[:31], "32 bytes"),
        "magic": (b"QSAEROWz" + small[8:], "magic"),
        "version": (stream(x[:5], version=2), "version"),
        "dtype 0": (stream(x[:5], dtype=1)[:10] + b"\0\0" + small[12:], "dtype"),
        "dtype f64": (small[:10] + b"\4\0" + small[12:], "dtype"),
        "flags": (stream(x[:5], flags=2), "flags"),
        "columns 0": (stream(x[:5], columns=0), "columns"),
        "columns of another SAE": (stream(x[:5], columns=64), "columns: expected 128, found 64"),
        "columns 2^32 - 1": (stream(x[:5], columns=2**32 - 1), "columns"),
        "layer": (stream(x[:5], layer=-2), "layer"), "rows -2": (stream(x[:5], count=-2), "rows"),
        "rows 2^62": (stream(x[:5], count=2**62), "ends within row 5"),
        "more rows than said": (stream(x[:5], count=4), "more bytes"),
        "cut within a row": (small[:-1], "ends within row 4"),
        "cut within a row, open": (stream(x[:5], count=-1)[:-1], "ends within row 4"),
        "cut within a position": (stream(x[:5], count=-1, positions=five)[:-516],
                                  "ends within row 4"),
        "negative token": (stream(x[:2], positions=[(0, 0), (-5, 0)]), "row 1"),
        "token near 2^63": (stream(x[:2], positions=[(2**63 - 1, 0), (0, 0)]), "row 0"),
        "a token twice": (stream(x[:2], positions=[(9, 0), (9, 0)]), "token"),
    }
    for name, (data, part) in refusals.items():
        code, _, said = run(data)
        case(f"refused: {name}", code == 1 and part in said, f"{code} {said}")
    for name, other in (("fewer rows", stream(q[:600])), ("another layer", stream(q, layer=4)),
                        ("other tokens", stream(q, positions=[(i + 1, 0) for i in range(700)]))):
        first = stream(x, positions=[(i, 0) for i in range(700)])
        code, _, said = run(first, other)
        case(f"refused as a pair: {name}", code == 1 and "expected" in said, f"{code} {said}")

    random.seed(5)
    seeds = [stream(x[:6]), stream(x[:6], positions=[(i * 3, i) for i in range(6)])]
    bad = []
    for i in range(int(os.environ.get("ROWS_MUTATIONS", "60"))):
        data = bytearray(random.choice(seeds))
        for _ in range(random.choice((1, 1, 2, 5))):
            at = random.randrange(32 if random.random() < 0.7 else len(data))
            data[at] = random.choice((0, 1, 2, 127, 128, 255, random.randrange(256)))
        if random.random() < 0.3:
            del data[random.randrange(len(data)):]
        other = random.choice(([], [random.choice(seeds)]))
        code, _, said = run(bytes(data), *other)
        if code not in (0, 1) or (code == 1 and "rows: " not in said):
            bad.append((i, code, said[-400:]))
    case("damaged streams end with a result or an error", not bad, bad)
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


sys.exit(main())
