# SPDX-License-Identifier: BSD-2-Clause
"""What evaluate prints against its own result document: no line is longer than 100 columns, and
every condition, SAE, probe tag, slice and length is there with its figures. Prints TAP.
usage: tables.py SOURCE_DIR PROGRAMS_DIR"""
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios

source, programs = sys.argv[1:]
data = os.path.join(source, "examples", "data")
count = failed = 0


def check(name, complaints):
    global count, failed
    count += 1
    failed += bool(complaints)
    print(f"{'not ok' if complaints else 'ok'} {count} - {name}")
    for line in complaints[:20]:
        print("# " + str(line))


def run(folder, *arguments, model=None):
    out = os.path.join(folder, "result.json")
    command = [os.path.join(programs, "evaluate"), model or os.path.join(data, "tiny-gemma3"),
               "--threads", "2", "--json", out, *arguments]
    table = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           encoding="utf-8").stdout
    with open(out, encoding="utf-8") as file:
        return table, json.load(file)


def too_long(table, most=100):
    return [line for line in table.splitlines() if len(line) > most or line != line.rstrip()
            and "]" not in line]


def squeezed(text):
    """Without what wrapping adds."""
    return "".join(text.split())


def signed(value, digits):
    return f"{value:+.{digits}f}"


def predictions(table, result):
    missing = []
    for who in result["conditions"]:
        low, high = who["intervals"]["dce"]
        texts = [f"{who['ce']:.5f}", f"{who['ppl']:.4f}", f"{who['kl_mean']:.3e}",
                 f"{100 * who['top1_agreement']:.2f}%", f"{who['bits_per_weight']:.3f}",
                 f"{signed(who['dce'], 5)} [{signed(low, 5)}, {signed(high, 5)}]"]
        missing += [(who["label"], t) for t in texts if t not in table]
        if squeezed(who["label"]) not in squeezed(table):
            missing.append(who["label"])
        for sae in who["saes"]:
            texts = [f"{sae['fvu_dim']:.5f}", signed(sae["dfvu_dim"], 5), f"{sae['l0']:.2f}",
                     f"{sae['noise']['ratio']:.3f}", sae["noise"]["verdict"],
                     f"{sae['survival']['survived_percent']:.1f}%",
                     f"{sae['survival']['median_r']:.4f}"]
            if sae.get("splice"):
                texts.append(f"{sae['splice']['ce_recovered']:.4f}")
            missing += [(sae["name"], t) for t in texts if t not in table]
            if squeezed(sae["name"]) not in squeezed(table):
                missing.append(sae["name"])
    return missing


def slices(table, result):
    return [s["value"] for s in result["slices"]["list"]
            if s["tokens"] and (s["value"] not in table or f"{s['tokens']}" not in table)]


def probes(table, result):
    missing = []
    for who in result["probes"]["conditions"]:
        for part in [who, *who["tags"]]:
            if f"{100 * part['accuracy']:.1f}%" not in table:
                missing.append((who["label"], part["accuracy"]))
    return missing + [t for t in result["probes"]["tags"] if t not in table]


def lengths(table, result):
    missing = []
    for length in result["contexts"]:
        for who in length["conditions"]:
            texts = [f"{who['ce']:.5f}", f"{who['kl_mean']:.2e}"]
            texts += [f"{s['fvu_dim']:.5f}" for s in who["saes"]]
            if who["change"]:
                texts.append(signed(who["change"]["dce"], 5))
            missing += [(length["context"], t) for t in texts if t not in table]
    return missing


def many(folder):
    """Long names, many of everything."""
    sae = os.path.join(folder, "an-sae-with-a-name-that-is-longer-than-any-column-could-be-"
                       "resid-post-layer-3-width-1k-l0-20")
    other = os.path.join(folder, "checkpoints", "a-fine-tuned-model-whose-folder-has-a-long-name")
    text = os.path.join(folder, "text-with-a-long-name-that-worst-documents-show-in-full.jsonl")
    shutil.copytree(os.path.join(data, "tiny-gemma3-sae"), sae)
    shutil.copytree(os.path.join(data, "tiny-gemma3"), other)
    with open(os.path.join(data, "eval.jsonl"), encoding="utf-8") as file:
        lines = sorted((json.loads(line) for line in file), key=lambda o: len(o["text"]))[:40]
    for i, line in enumerate(lines):
        line["meta"] = {"source": f"collection number {i % 3} of a corpus with quite a name \u00e9"}
    with open(text, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with open(os.path.join(data, "probes.jsonl"), encoding="utf-8") as file:
        items = file.readlines()[::6]
    with open(os.path.join(folder, "probes.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(items)
    conditions = ["rtn:bits=3", "rtn:bits=3,group=32@layers=0-2@skip=down_proj+kv:k=q8_0,v=q4_0",
                  "mix(rtn:bits=8@only=down_proj)(rtn:bits=4@layers=0-3)(nf4)", other]
    options = ["--sae", sae + "@3", "--sae", sae + "@4", "--text", text, "--context", "64",
               "--tokens", "2000", "--slice", "meta.source*class", "--slice", "position",
               "--worst", "3", "--probes", os.path.join(folder, "probes.jsonl"), "--contexts",
               "32,16", "--contexts-scored", "4", "--splice", "--compat", "saebench"]
    for c in conditions:
        options += ["--condition", c]
    return run(folder, *options)


def on_terminal(width, stream, terminal, *arguments):
    """What a program writes to a terminal of that width that is its stream 1 or 2."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    process = subprocess.Popen(
        [os.path.join(programs, "evaluate"), os.path.join(data, "tiny-gemma3"), "--text",
         os.path.join(data, "eval.jsonl"), "--tokens", "600", *arguments],
        stdout=theirs if stream == 1 else subprocess.DEVNULL,
        stderr=theirs if stream == 2 else subprocess.DEVNULL, env={**os.environ, "TERM": terminal})
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(ours)
    return text.decode(), process.wait()


def terminals():
    text, status = on_terminal(72, 1, "xterm", "--condition", "rtn:bits=4", "--sae",
                               os.path.join(data, "tiny-gemma3-sae"))
    check("tables are as wide as the terminal", [status, text] if status or "survived" not in text
          else [line for line in text.replace("\r", "").splitlines() if len(line) > 72])
    check("without colours or other control sequences", [text] if "\033" in text else [])
    text, status = on_terminal(100, 2, "xterm")
    check("a progress line on a terminal",
          [] if status == 0 and "\rmeasure: " in text.replace("\033[K", "") and
          text.endswith("\033[K") else [status, text])
    silent = [on_terminal(100, 2, "xterm", "--quiet"), on_terminal(100, 2, "dumb")]
    check("none with --quiet, or on a terminal that cannot", [s for s in silent if s != ("", 0)])


def main():
    with tempfile.TemporaryDirectory() as folder:
        table, result = many(folder)
        check("no line is longer than 100 columns", too_long(table))
        check("every condition and SAE with its figures", predictions(table, result))
        check("every slice", slices(table, result))
        check("every probe tag", probes(table, result))
        check("every context length", lengths(table, result))
        check("the label of a checkpoint is where it lies",
              [] if squeezed(result["conditions"][3]["label"]) in squeezed(table) else [table])
        text = os.path.join(data, "eval.jsonl")
        table, result = run(folder, "--text", text, "--tokens", "600", "--condition", "rtn:bits=3",
                            "--condition", "rtn:bits=4", "--plan", "3.6", "--sae",
                            os.path.join(data, "tiny-gemma3-sae"), "--controls")
        check("a plan and controls fit", too_long(table))
        parts = result["plan"]["parts"]
        check("the plan's parts and condition", [
            p for p in parts if any(f"{o['kl_mean']:.3e}" not in table for o in p["options"])] + (
            [] if squeezed(result["plan"]["condition"]) in squeezed(table) else ["condition"]))
        arguments = ["--text", text, "--tokens", "600", "--condition", "rtn:bits=3"]
        table, result = run(folder, *arguments, "--sweep", "kinds")
        check("a sweep fits", too_long(table))
        table, result = run(folder, *arguments, "--wide", "--sae",
                            os.path.join(data, "tiny-gemma3-sae"))
        label = result["conditions"][0]["label"]
        check("--wide has one line per condition and SAE", [] if sum(
            line.startswith(label + " ") and f"{result['conditions'][0]['ce']:.5f}" in line and
            "tiny-gemma3-sae @3" in line for line in table.splitlines()) == 1 else [table])
        inspected = subprocess.run(
            [os.path.join(programs, "inspect"), "--tensors", "--condition", "rtn:bits=4",
             os.path.join(data, "tiny-gemma3"), os.path.join(data, "tiny-gemma3-sae"),
             os.path.join(folder, "x" * 120)], stdout=subprocess.PIPE, encoding="utf-8").stdout
        check("what inspect prints fits", too_long(inspected))
    terminals()
    print(f"1..{count}")
    return failed > 0


sys.exit(main())
