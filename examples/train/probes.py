#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write probes for the bundled model: a context with a good and a bad continuation each.

One JSON object a line: {"context", "good", "bad", "tags"}. Four kinds, of the world that
generate.py's documents are made of:

constraint   a speaker's way of talking, kept or dropped
rare_name    a name that the training text has hardly ever had
exception    what breaks the rule that things stay with their owners, or the week that starts again
steps        a sum, a walk or a thing that changes hands, followed over several steps
"""
import argparse
import json
import random

from generate import DAYS, FOODS, HABITS, PLACES, TRADES, WEATHER, Maker, World, cap, his, pronoun

RARE = 1500                        # names from this rank on; the first ones are in every document
SHORT = 7                          # most letters of a name, for the sake of the file's size


class Prober(Maker):
    """One probe of each kind: (context, good, bad)."""

    def rare(self, n):
        return self.r.sample([w for w in self.w.names[RARE:] if len(w) <= SHORT], n)

    def people(self, n):
        while True:
            out = super().people(n)
            if all(len(w) <= SHORT for w in out):
                return out

    # ---- constraint -----------------------------------------------------------------------------
    def constraint(self):
        """The speaker's habit was heard before: the line that keeps it against the one without."""
        r = self.r
        a, b = self.people(2)
        before = self.pick([h[0] for h in HABITS if h[0]])
        after = self.pick([h[1] for h in HABITS if h[1]])
        thing, town = self.things(1)[0], self.town()
        opening = f"{a}: {before}good morning, {b}.\n{b}: Good morning, {a}{after}.\n"
        if r.random() < 0.5:
            return opening + f"{b}: I live in {town}", f"{after}.", "."
        context = opening + f"{b}: I have lost my {thing}{after}.\n{a}:"
        return context, f" {before}your {thing}", f" Your {thing}"

    # ---- rare name ------------------------------------------------------------------------------
    def rare_name(self):
        r = self.r
        a, b, other = self.rare(3)
        town, things = self.town(), self.things(2)
        trade, other_trade = self.r.sample(TRADES, 2)
        who = (f"A {trade} called {a} came to {town}. {b} the {other_trade} was {his(a)} "
               f"friend.")
        if r.random() < 0.4:
            return f"{who}\n\nOn {self.pick(DAYS)}", f" {a}", f" {other}"
        who += f" {a} had a {things[0]}. {b} had a {things[1]}."
        if r.random() < 0.5:
            owner, wrong = (a, b) if r.random() < 0.5 else (b, a)
            thing = things[0] if owner == a else things[1]
            return f"{who}\n\nWho had the {thing}?", f" {owner}", f" {wrong}"
        return (f"{who}\n\nSo ended that day. {a} had the", f" {things[0]}",
                f" {things[1]}")

    # ---- exception ------------------------------------------------------------------------------
    def exception(self):
        r = self.r
        a, b = self.people(2)
        if r.random() < 0.25:
            d = r.randrange(7) if r.random() < 0.5 else 6
            habit = self.pick([h for h in HABITS if h[0]])[0]
            context = f"{a}: If today is {DAYS[d]}, what is tomorrow?\n{b}: {habit}tomorrow is"
            return context, f" {DAYS[(d + 1) % 7]}", f" {DAYS[d - 1]}"
        things, (spot, far) = self.things(2), r.sample(PLACES, 2)
        context = (f"{a} had a {things[0]}. {b} had a {things[1]}.\n\nOn {self.pick(DAYS)} {a} was "
                   f"in the {spot}. {cap(pronoun(a))} left the {things[0]} in the {spot}.")
        if r.random() < 0.4:
            return f"{context}\n\nWho had the {things[0]}?", " Nobody", f" {a}"
        if r.random() < 0.5:
            return f"{context}\n\nWho had the {things[1]}?", f" {b}", " Nobody"
        return (f"{context}\n\nWho had the {things[0]}? Nobody, it was in the", f" {spot}.",
                f" {far}.")

    # ---- several steps --------------------------------------------------------------------------
    def steps(self):
        r = self.r
        form = self.pick(("sum", "walk", "hands", "count"))
        if form == "sum":
            adds = [r.randint(1, 9) for _ in range(r.randint(3, 5))]
            rows = [f"add {n}, total {sum(adds[:i + 1])}" for i, n in enumerate(adds)]
            good = sum(adds)
            bad = good + self.pick((-2, -1, 1, 2))
            return ("Running total:\n" + "\n".join(rows)[:-len(str(good)) - 1], f" {good}\n",
                    f" {bad}\n")
        a, b = self.people(2)
        if form == "walk":
            spots = r.sample(PLACES, 3)
            context = f"On {self.pick(DAYS)} {a} woke early and went to the {spots[0]}."
            for old, new in zip(spots, spots[1:]):
                context += f" {cap(pronoun(a))} left the {old} and walked to the {new}."
            context += f" {self.pick(WEATHER)}\n\nWhere was {a}? {cap(pronoun(a))} was in the"
            return context, f" {spots[2]}.", f" {spots[self.pick((0, 1))]}."
        if form == "hands":
            thing = self.things(1)[0]
            context = (f"{a} had a {thing}. {a} gave the {thing} to {b}. \"Thank you, {a},\" said "
                       f"{b}.")
            if r.random() < 0.5:
                context += f" {b} handed {a} the {thing}, and {a} thanked {b}."
                a, b = b, a
            return f"{context}\n\nWho had the {thing}?", f" {b}", f" {a}"
        food, n, more = self.pick(FOODS), r.randint(3, 12), r.randint(1, 9)
        context = (f"{a} has {n} {food}. {cap(pronoun(a))} buys {more} more. Now {a} has {n} + "
                   f"{more} =")
        bad = n + more + self.pick((-2, -1, 1, 2))
        return context, f" {n + more} {food}.", f" {bad} {food}."


KINDS = ("constraint", "rare_name", "exception", "steps")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("output")
    p.add_argument("--probes", type=int, default=300)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    world = World()
    with open(a.output, "w", encoding="utf-8") as f:
        for i in range(a.probes):
            kind = KINDS[i % len(KINDS)]
            prober = Prober(world, random.Random(f"{a.seed}/probe/{i}"), 1)
            context, good, bad = getattr(prober, kind)()
            row = {"context": context, "good": good, "bad": bad, "tags": [kind]}
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
