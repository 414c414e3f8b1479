# SPDX-License-Identifier: BSD-2-Clause
"""Result documents whose figures are the published ones, for the program published.

usage: published_results.py TABLE.json STUDY OUT [FIGURE=VALUE...]

Writes OUT/RUN.json for every run of the study; a figure given (RUN/NAME=VALUE) gets that value, or
none if VALUE is null.
"""

import json
import math
import os
import re
import sys


def middle(figure):
    """A value that is as published."""
    if "equals" in figure:
        return figure["equals"]
    if "published" in figure:
        return figure["published"]
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return high / 2 if low is None else low / 2
    return (low + high) / 2


def element(items, key):
    """The element of a list that a key in brackets stands for, made if there is none."""
    if "&" in key:
        a, b = key.split("&")
        wanted = {"label_a": a + "x", "label_b": b + "x"}
    elif not key.isdigit():
        wanted = {"label": key + "x"}
    elif int(key) > 100:
        wanted = {"budget": int(key)}
    else:
        while len(items) <= int(key):
            items.append({})
        return items[int(key)]
    for item in items:
        if wanted.items() <= item.items():
            return item
    items.append(wanted)
    return wanted


def put(document, path, value):
    """Sets a.b[key].c; a number in brackets at the end is an index of a list of numbers."""
    parts = re.findall(r"[^.\[\]]+|\[[^\]]*\]", path)
    for here, after in zip(parts, parts[1:]):
        if here.startswith("["):
            document = element(document, here[1:-1])
        else:
            document = document.setdefault(here, [] if after.startswith("[") else {})
    last = parts[-1]
    if last.startswith("["):
        index = int(last[1:-1])
        document.extend([None] * (index + 1 - len(document)))
        document[index] = value
    else:
        document[last] = value


def value_of(document, path):
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        document = element(document, part[1:-1]) if part.startswith("[") else document[part]
    return document


def main():
    table, study, out, *changes = sys.argv[1:]
    with open(table, encoding="utf-8") as file:
        table = json.load(file)
    changed = dict(change.rsplit("=", 1) for change in changes)
    documents = {}
    # References before what is measured against them.
    for figure in sorted(table[study], key=lambda f: "minus" in f):
        document = documents.setdefault(figure["run"], {"format": "qsae-result"})
        name = f"{figure['run']}/{figure['figure']}"
        if "path" not in figure or not {"published", "low", "high", "equals"} & set(figure):
            continue
        value = json.loads(changed.pop(name)) if name in changed else middle(figure)
        if value is None:
            put(document, figure["path"], None)
            continue
        apply = figure.get("apply")
        if apply == "rise":
            continue  # the same place as the perplexity it is the rise of
        if "minus" in figure:
            try:
                base = value_of(document, figure["minus"])
            except KeyError:
                base = 0.05
                put(document, figure["minus"], base)
            value += base
        put(document, figure["path"], math.log(value) if apply == "exp" else value)
    # The ends of the article's range of ratios, one in each model.
    if study == "article":
        put(documents["gemma-3-4b-pt"],
            "snapshots[200000].conditions[llm.int8].saes[0].noise.ratio", 1.10)
        put(documents["gemma-3-12b-pt"], "snapshots[200000].conditions[nf4].saes[0].noise.ratio",
            1.87)
    elif "sliding" in documents["gemma-2-2b"]:  # its rises are of CE
        sliding = documents["gemma-2-2b"]["sliding"]
        for entry in [sliding["reference"], *sliding["conditions"]]:
            entry["ce"] = math.log(entry["ppl"]) if entry.get("ppl") else None
    if changed:
        sys.exit(f"no such figure: {', '.join(changed)}")
    for run, document in documents.items():
        budget = table["budgets"][study][run][0]
        document.setdefault("corpus", {}).setdefault("tokens", budget)
        with open(os.path.join(out, run + ".json"), "w", encoding="utf-8") as file:
            json.dump(document, file)


if __name__ == "__main__":
    main()
