#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write the synthetic documents the bundled model, its SAE and its evaluation file are made of.

Each line of the output is {"text": ..., "kind": ..., "id": ...}. The six kinds have structure that
a model can learn and that goes beyond neighbouring words: stories keep track of who has what and
where, dialogues give each speaker a habit and answer from what was said, arithmetic is right,
lists are sorted and counted, code has matched brackets and true results, and lang2 is a made-up
language with vowel harmony, agreement and a dictionary. Names follow Zipf's law, so that many of
them are seen a few times only. About one document in ten is several contexts long.

A document belongs to the split that the hash of its text says, so train and eval never share one.
"""
import argparse
import hashlib
import json
import os
import random

KINDS = (("story", 26), ("dialogue", 18), ("arithmetic", 14), ("list", 14), ("code", 14),
         ("lang2", 14))
LONG_SHARE = 10                    # one document in this many is long
EVAL_SHARE = 32                    # one text hash in this many belongs to the eval split
WORLD_SEED = 20                    # names and the lang2 dictionary; the same for both splits

COLOURS = "red blue green white black grey brown yellow golden silver".split()
THINGS = ("lamp key rope coin bell map cup book drum flute knife basket blanket mirror candle "
          "ladder hammer ring letter box whistle kettle shovel wheel spoon needle hat scarf lens "
          "clock").split()
PLACES = ("kitchen garden barn cellar market harbour mill tower attic forest chapel workshop "
          "library stable orchard quarry cave inn").split()
TRADES = ("baker smith weaver fisher miller potter carpenter gardener tailor sailor doctor "
          "teacher painter hunter clerk guard cook mason").split()
TEMPERS = ("quiet cheerful careful clever stubborn gentle proud curious brave lazy humble shy "
           "patient nervous kind").split()
FOODS = ("apples pears plums onions carrots eggs loaves cherries beans turnips mushrooms nuts "
         "potatoes leeks figs melons radishes walnuts").split()
ANIMALS = "goat hen horse dog cat goose cow sheep mule pig duck donkey".split()
WEATHER = ("It was raining.", "The sun was warm.", "A cold wind blew.", "Snow lay on the roofs.",
           "The fog was thick.", "The sky was clear.")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COUNTS = "zero one two three four five six seven eight nine ten eleven twelve".split()
HABITS = (("Well, ", ""), ("", ", you know"), ("Listen, ", ""), ("", ", I think"), ("Oh, ", ""),
          ("", ", my friend"), ("Hm, ", ""), ("", ", to be sure"), ("Now, ", ""), ("", ", indeed"))
# Letters outside every merge and outside the alphabet of the tokenizer: they become byte tokens.
SIGNS = "☼ ⟡ ꝏ ᚱ ₪ ლ ♁ 木 ж 🜂".split()


class World:
    """Names and words shared by all documents."""

    def __init__(self):
        rng = random.Random(WORLD_SEED)
        heads = "b d f g h j k l m n p r s t v w z br dr gr kr tr st sk fl sh th".split()
        vowels = "a e i o u a e i o ai ea ou".split()
        tails = "l n r s m t d k nd rn x v".split()
        seen = set()

        def fresh(make):
            while True:
                word = make()
                if word not in seen:
                    seen.add(word)
                    return word

        def name():
            word = "".join(rng.choice(heads) + rng.choice(vowels)
                           for _ in range(rng.choice((1, 2, 2, 3))))
            # The ending fixes the pronoun, so that it can be learned for names never seen.
            return (word + rng.choice(tails) + rng.choice(("a", "a", "ie", "", "", "o"))).title()

        def town():
            base = rng.choice(heads) + rng.choice(vowels) + rng.choice(tails)
            return (base + rng.choice(("ford", "holm", "wick", "mere", "by", "stead"))).title()

        self.names = [fresh(name) for _ in range(3000)]
        self.towns = [fresh(town) for _ in range(400)]
        self.name_weights = zipf(len(self.names), 1.0)
        self.town_weights = zipf(len(self.towns), 1.0)

        # lang2: front words hold e i ø ü, back words a o u å; suffixes follow.
        onset = "b d g k l m n p r s t v z č š ž ñ ð þ kl br tr".split()
        coda = "l n r s m k š".split()

        def word(front, syllables):
            vow = "eiøü" if front else "aouå"
            return "".join(rng.choice(onset) + rng.choice(vow) for _ in range(syllables)) \
                + rng.choice(coda)

        def lexicon(n, syllables):
            rows = []
            for i in range(n):
                front = i % 2 == 0
                rows.append((fresh(lambda: word(front, rng.choice(syllables))), front))
            return rows

        meanings = THINGS + PLACES + TRADES + ANIMALS
        self.l2_nouns = [(w, f, m) for (w, f), m in zip(lexicon(len(meanings), (1, 2)), meanings)]
        self.l2_verbs = lexicon(40, (1, 2))
        self.l2_adjectives = lexicon(30, (1, 2))
        self.l2_names = [fresh(lambda: word(i % 2 == 0, 2).title()) for i in range(400)]
        self.l2_name_weights = zipf(400, 1.0)
        self.l2_numbers = [w for w, _ in lexicon(10, (1,))]


def zipf(n, power):
    return [1.0 / (i + 1) ** power for i in range(n)]


def she(name):
    return name[-1] in "ae"


def pronoun(name):
    return "she" if she(name) else "he"


def his(name):
    return "her" if she(name) else "his"


def cap(text):
    return text[:1].upper() + text[1:]


def join(items):
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Maker:
    """One document: a random stream, the world, and the length wanted (1 short, several long)."""

    def __init__(self, world, rng, size):
        self.w, self.r, self.size = world, rng, size

    def pick(self, items):
        return self.r.choice(items)

    def people(self, n):
        out = []
        while len(out) < n:
            name = self.r.choices(self.w.names, self.w.name_weights)[0]
            if name not in out:
                out.append(name)
        return out

    def town(self):
        return self.r.choices(self.w.towns, self.w.town_weights)[0]

    def things(self, n):
        return [f"{self.pick(COLOURS)} {t}" for t in self.r.sample(THINGS, n)]

    # ---- story ----------------------------------------------------------------------------------
    def story(self):
        r = self.r
        cast = self.people(r.randint(2, 3) if self.size == 1 else r.randint(3, 5))
        town = self.town()
        trade = dict(zip(cast, r.sample(TRADES, len(cast))))
        spots = r.sample(PLACES, r.randint(3, 5))
        where = {c: self.pick(spots) for c in cast}
        goods = self.things(len(cast))
        owner = dict(zip(goods, cast))          # thing -> person, or a place when left there
        parts = []
        first = cast[0]
        opening = [self.pick((
            f"{first} was {article(self.pick(TEMPERS))} {trade[first]} who lived in {town}.",
            f"In {town} there lived {article(self.pick(TEMPERS))} {trade[first]} named {first}.",
            f"Long ago a {trade[first]} called {first} came to {town}."))]
        for c in cast[1:]:
            opening.append(self.pick((f"{c} the {trade[c]} was {his(first)} friend.",
                                      f"{c} was the {trade[c]} of {town}.",
                                      f"The {trade[c]} there was called {c}.")))
        for g in goods:
            opening.append(self.pick((f"{owner[g]} had a {g}.", f"{owner[g]} owned a {g}.")))
        parts.append(" ".join(opening))
        for chapter in range(self.size):
            text = []
            last = None
            if self.size > 1:
                text.append(f"Chapter {chapter + 1}.")
            day = self.pick(DAYS)
            text.append(f"On {day} " + self.scene(where, first))
            last = first
            for _ in range(r.randint(5, 9)):
                c = last if last and r.random() < 0.4 else self.pick(cast)
                who = cap(pronoun(c)) if c == last else c
                text.append(self.event(c, who, cast, spots, where, goods, owner, trade))
                # After a sentence about the weather a pronoun would have nobody to stand for.
                last = None if text[-1] in WEATHER else c
            parts.append(" ".join(text))
            if r.random() < 0.7 or self.size > 1:
                parts.append(self.recap(cast, where, goods, owner, trade, town))
        parts.append(self.ending(cast, goods, owner, town, day))
        return "\n\n".join(parts)

    def scene(self, where, c):
        return self.pick((f"{c} was in the {where[c]}. {self.pick(WEATHER)}",
                          f"{c} woke early and went to the {where[c]}."))

    def event(self, c, who, cast, spots, where, goods, owner, trade):
        r = self.r
        mine = [g for g in goods if owner[g] == c]
        here = [g for g in goods if owner[g] == where[c]]
        near = [o for o in cast if o != c and where[o] == where[c]]
        options = ["move", "move", "weather"]
        if mine:
            options += ["leave", "use"]
            if near:
                options += ["give", "give", "show"]
        if here:
            options += ["take", "take", "take"]
        if near:
            options += ["meet"]
        what = self.pick(options)
        if what == "move":
            old = where[c]
            where[c] = self.pick([s for s in spots if s != old])
            with_things = f" with {his(c)} {self.pick(mine)}" if mine and r.random() < 0.4 else ""
            return self.pick((f"{who} went from the {old} to the {where[c]}{with_things}.",
                              f"{who} left the {old} and walked to the {where[c]}{with_things}."))
        if what == "weather":
            return self.pick(WEATHER)
        if what == "leave":
            g = self.pick(mine)
            owner[g] = where[c]
            return f"{who} left the {g} in the {where[c]}."
        if what == "use":
            g = self.pick(mine)
            return self.pick((f"{who} looked at the {g} for a long time.",
                              f"{who} cleaned the {g} as every {trade[c]} would."))
        if what == "give":
            g, o = self.pick(mine), self.pick(near)
            owner[g] = o
            return self.pick((f"{who} gave the {g} to {o}. \"Thank you, {c},\" said {o}.",
                              f"{who} handed {o} the {g}, and {o} thanked {c}."))
        if what == "show":
            return f"{who} showed the {self.pick(mine)} to {self.pick(near)}."
        if what == "take":
            g = self.pick(here)
            owner[g] = c
            return f"{who} found the {g} in the {where[c]} and took it."
        o = self.pick(near)
        return self.pick((f"{who} met {o} the {trade[o]} in the {where[c]}.",
                          f"{who} greeted {o}, who was in the {where[c]} too."))

    def recap(self, cast, where, goods, owner, trade, town):
        out = []
        for _ in range(self.r.randint(1, 3)):
            kind = self.pick(("place", "thing", "trade"))
            c, g = self.pick(cast), self.pick(goods)
            if kind == "place":
                out.append(f"Where was {c}? {cap(pronoun(c))} was in the {where[c]}.")
            elif kind == "thing":
                at = owner[g]
                out.append(f"Who had the {g}? " + (
                    f"{at} had it." if at in cast else f"Nobody, it was in the {at}."))
            else:
                out.append(f"What was {c}? {cap(pronoun(c))} was a {trade[c]} in {town}.")
        return " ".join(out)

    def ending(self, cast, goods, owner, town, day):
        kept = [f"{c} had the " + join(f"{g}" for g in goods if owner[g] == c)
                for c in cast if c in owner.values()]
        lost = [g for g in goods if owner[g] not in cast]
        out = f"So ended that {day} in {town}. " + (cap(join(kept)) + "." if kept else "")
        for g in lost:
            out += f" The {g} was still in the {owner[g]}."
        return out

    # ---- dialogue -------------------------------------------------------------------------------
    def dialogue(self):
        r = self.r
        cast = self.people(2 if self.size == 1 else 3)
        habit = dict(zip(cast, r.sample(HABITS, len(cast))))
        trade = dict(zip(cast, r.sample(TRADES, len(cast))))
        home = {c: self.town() for c in cast}
        known = []                              # (speaker, question, answer) to come back to
        pets = {}
        lines = []

        def say(c, text, mark="."):
            before, after = habit[c]
            lines.append(f"{c}: {before}{text if before else cap(text)}{after}{mark}")

        say(cast[0], f"good morning, {cast[1]}")
        say(cast[1], f"good morning, {cast[0]}")
        for turn in range(r.randint(3, 6) + 5 * (self.size - 1)):
            a, b = r.sample(cast, 2)
            if known and r.random() < 0.35:
                c, question, answer = self.pick(known[-12:])
                if c != a:
                    say(a, question, "?")
                    say(c, f"as I said, {answer}" if r.random() < 0.5 else answer)
                    continue
            topic = self.pick(("buy", "home", "trade", "lost", "animal", "day"))
            n = r.randint(2, 12)
            if topic == "buy":
                food = self.pick(FOODS)
                say(a, f"what did you buy, {b}", "?")
                say(b, f"I bought {COUNTS[n]} {food} from {self.people(1)[0]}")
                known.append((b, f"how many {food} did you buy, {b}",
                              f"I bought {COUNTS[n]} {food}"))
            elif topic == "home":
                say(a, f"where do you live now, {b}", "?")
                say(b, f"I live in {home[b]}")
                known.append((b, f"which town are you from, {b}", f"I live in {home[b]}"))
            elif topic == "trade":
                say(a, f"are you a {trade[a]} like me", "?")
                say(b, f"no, I am a {trade[b]}, and you are a {trade[a]}")
                known.append((b, f"what is your work, {b}", f"I am a {trade[b]}"))
            elif topic == "lost":
                g, p = self.things(1)[0], self.pick(PLACES)
                say(a, f"I have lost my {g}")
                say(b, f"your {g} is in the {p}, {a}")
                known.append((b, f"where is the {g}, {b}", f"it is in the {p}"))
            elif topic == "animal":
                animal = self.pick(ANIMALS)
                name = pets.setdefault((b, animal), self.people(1)[0])
                say(a, f"what is the name of your {animal}", "?")
                say(b, f"my {animal} is called {name}")
                known.append((b, f"how do you call your {animal}",
                              f"my {animal} is called {name}"))
            else:
                d = r.randrange(7)
                say(a, f"if today is {DAYS[d]}, what is tomorrow", "?")
                say(b, f"tomorrow is {DAYS[(d + 1) % 7]}")
        say(cast[0], f"goodbye, {cast[1]} of {home[cast[1]]}")
        say(cast[1], f"goodbye, {cast[0]}")
        return "\n".join(lines)

    # ---- arithmetic -----------------------------------------------------------------------------
    def arithmetic(self):
        blocks = []
        for _ in range(self.r.randint(2, 4) + 6 * (self.size - 1)):
            blocks.append(self.pick((self.sums, self.sums, self.running, self.table, self.steps,
                                     self.problem, self.problem, self.order))())
        return "\n\n".join(blocks)

    def sums(self):
        r, out = self.r, []
        top = self.pick((10, 20, 50))
        for _ in range(r.randint(4, 8)):
            a, b = r.randint(0, top), r.randint(0, top)
            if r.random() < 0.5:
                out.append(f"{a} + {b} = {a + b}")
            else:
                out.append(f"{max(a, b)} - {min(a, b)} = {abs(a - b)}")
        return "\n".join(out)

    def running(self):
        r, total = self.r, 0
        out = ["Running total:"]
        for _ in range(r.randint(4, 8)):
            n = r.randint(1, 9)
            total += n
            out.append(f"add {n}, total {total}")
        return "\n".join(out) + f"\nThe end: {total}."

    def table(self):
        n = self.r.randint(2, 9)
        first = self.r.randint(1, 3)
        rows = [f"{n} x {i} = {n * i}" for i in range(first, first + self.r.randint(5, 8))]
        return f"Table of {n}\n" + "\n".join(rows)

    def steps(self):
        r = self.r
        start, step = r.randint(0, 20), r.randint(1, 9)
        row = [start + i * step for i in range(r.randint(6, 10))]
        return f"Count by {step} from {start}: " + ", ".join(map(str, row)) + "."

    def problem(self):
        r = self.r
        name, food = self.people(1)[0], self.pick(FOODS)
        a, b = r.randint(3, 20), r.randint(1, 9)
        p = cap(pronoun(name))
        if r.random() < 0.5:
            return (f"{name} has {a} {food}. {p} buys {b} more. Now {name} has {a} + {b} = {a + b} "
                    f"{food}.")
        b = min(a, b)
        other = self.people(1)[0]
        return (f"{name} has {a} {food}. {p} gives {b} to {other}. Now {name} has {a} - {b} = "
                f"{a - b} {food} and {other} has {b}.")

    def order(self):
        r = self.r
        nums = r.sample(range(1, 60), r.randint(4, 6))
        text = ", ".join(map(str, nums))
        up = ", ".join(map(str, sorted(nums)))
        return f"Numbers: {text}\nSorted: {up}\nSmallest {min(nums)}, largest {max(nums)}."

    # ---- list -----------------------------------------------------------------------------------
    def list(self):
        blocks = []
        for _ in range(self.r.randint(1, 3) + 5 * (self.size - 1)):
            blocks.append(self.pick((self.roll, self.shopping, self.reverse, self.nested))())
        return self.pick(("\n\n", "\n\n\n")).join(blocks)

    def roll(self):
        names = sorted(self.people(self.r.randint(5, 10)))
        rows = [f"{i + 1}. {n}" for i, n in enumerate(names)]
        return (f"People of {self.town()}, in order of the alphabet\n" + "\n".join(rows)
                + f"\nFirst: {names[0]}. Last: {names[-1]}. Count: {len(names)}.")

    def shopping(self):
        foods = self.r.sample(FOODS, self.r.randint(4, 8))
        who = self.people(1)[0]
        rows, total = [], 0
        for f in foods:
            n = self.r.randint(1, 9)
            total += n
            rows.append(f"- {f}: {n} (total {total})")
        return (f"To buy for {who}\n" + "\n".join(rows)
                + f"\n{len(foods)} kinds, {total} pieces for {who}.")

    def reverse(self):
        items = self.things(self.r.randint(4, 7))
        there = "\n".join(f"{i + 1}) {t}" for i, t in enumerate(items))
        back = "\n".join(f"{i + 1}) {t}" for i, t in enumerate(reversed(items)))
        return f"Things on the shelf\n{there}\nThe same from the other end\n{back}"

    def nested(self):
        out = []
        towns = []
        for _ in range(self.r.randint(2, 4)):
            t = self.town()
            if t in towns:
                continue
            towns.append(t)
            out.append(f"* {t}")
            for p in sorted(self.r.sample(PLACES, self.r.randint(2, 4))):
                out.append(f"    * {p}: {self.people(1)[0]}")
        return "Towns and keepers\n" + "\n".join(out) + f"\nTowns: {', '.join(towns)}."

    # ---- code -----------------------------------------------------------------------------------
    def code(self):
        r = self.r
        blocks = []
        known = []                              # functions defined so far: name, parameters, rule
        for _ in range(r.randint(2, 4) + 7 * (self.size - 1)):
            make = self.pick((self.function, self.function, self.literal, self.loop))
            blocks.append(make(known))
            if known and r.random() < 0.8:
                blocks.append(self.call(known))
        return "\n\n".join(blocks) + "\n"

    VARS = "a b c n m k x y z i j total count size left right".split()
    VERBS = "get set make add find join split scale shift mark".split()
    NOUNS = "item node row sum part edge word cell page unit".split()

    def function(self, known):
        r = self.r
        name = f"{self.pick(self.VERBS)}_{self.pick(self.NOUNS)}"
        p = r.sample(self.VARS, 2)
        k = r.randint(1, 9)
        rule, text = self.pick((
            (lambda a, b: a + b + k, f"{p[0]} + {p[1]} + {k}"),
            (lambda a, b: a - b, f"{p[0]} - {p[1]}"),
            (lambda a, b: a * k + b, f"({p[0]} * {k}) + {p[1]}"),
            (lambda a, b: max(a, b), f"max({p[0]}, {p[1]})"),
            (lambda a, b: min(a, b) + k, f"min({p[0]}, {p[1]}) + {k}")))
        known[:] = [f for f in known if f[0] != name] + [(name, rule)]
        if r.random() < 0.5:
            return f"fn {name}({p[0]}, {p[1]}) {{\n    return {text};\n}}"
        v = self.pick([x for x in self.VARS if x not in p])
        return (f"fn {name}({p[0]}, {p[1]}) {{\n    let {v} = {text};\n"
                f"    log(\"{name}\", {v});\n    return {v};\n}}")

    def call(self, known):
        out = []
        for _ in range(self.r.randint(1, 3)):
            name, rule = self.pick(known[-3:])
            a, b = self.r.randint(1, 9), self.r.randint(1, 9)
            out.append(f"print({name}({a}, {b}));  // {rule(a, b)}")
        return "\n".join(out)

    def expression(self, depth):
        if depth == 0 or self.r.random() < 0.25:
            return self.pick((str(self.r.randint(0, 9)), f'"{self.pick(THINGS)}"'))
        inside = [self.expression(depth - 1) for _ in range(self.r.randint(1, 3))]
        if self.r.random() < 0.6:
            return "[" + ", ".join(inside) + "]"
        keys = self.r.sample(self.NOUNS, len(inside))
        return "{" + ", ".join(f"{k}: {v}" for k, v in zip(keys, inside)) + "}"

    def literal(self, known):
        v = self.pick(self.NOUNS)
        return f"let {v} = [{self.expression(3)}, {self.expression(3)}];\nprint(len({v}));  // 2"

    def loop(self, known):
        r = self.r
        i, t = r.sample(self.VARS, 2)
        n, k = r.randint(2, 5), r.randint(1, 5)
        return (f"let {t} = 0;\nfor {i} in range({n}) {{\n    if ({i} >= 0) {{\n"
                f"        {t} = {t} + {k};\n    }}\n}}\nprint({t});  // {n * k}")

    # ---- lang2 ----------------------------------------------------------------------------------
    def lang2(self):
        r, w = self.r, self.w
        nouns = r.sample(w.l2_nouns, 5 + self.size)
        verbs = r.sample(w.l2_verbs, 4)
        adjectives = r.sample(w.l2_adjectives, 3)
        names = r.choices(w.l2_names, w.l2_name_weights, k=2)
        parts = []
        for _ in range(self.size):
            rows = [self.sentence(nouns, verbs, adjectives, names)
                    for _ in range(r.randint(5, 8))]
            parts.append(" ".join(rows))
        if r.random() < 0.6:
            parts.append("\n".join(f"{n} — {m}" for n, _, m in sorted(nouns)))
        if r.random() < 0.5:
            sign = self.pick(SIGNS)
            parts.append(f"{sign} {names[0]} {sign}")
        return "\n\n".join(parts)

    def sentence(self, nouns, verbs, adjectives, names):
        """Verb first, then subject, then object; a particle at the end repeats the tense."""
        r = self.r
        verb, front = self.pick(verbs)
        tense, particle = self.pick((("k", "ta"), ("m", "ve"), ("š", "su")))
        many = r.random() < 0.35
        if r.random() < 0.3:
            subject, many = self.pick(names), False
        else:
            subject = self.noun(self.pick(nouns), many, "")
        verb += ("e" if front else "a") + tense + (("it" if front else "ut") if many else "")
        phrase = [verb, subject]
        if r.random() < 0.7:
            noun = self.pick(nouns)
            more = r.random() < 0.3
            phrase.append(self.noun(noun, more, "n"))
            if r.random() < 0.6:
                # The adjective takes the harmony and the number of its noun.
                adjective = self.pick(adjectives)[0] + ("e" if noun[1] else "o")
                phrase.append(adjective + ("r" if more else ""))
            if more and r.random() < 0.5:
                i = r.randint(2, 9)
                phrase.append(f"{self.w.l2_numbers[i]} ({i})")
        return cap(" ".join(phrase)) + " " + particle + "."

    def noun(self, noun, many, case):
        word, front, _ = noun
        if many:
            word += "ir" if front else "ur"
        if case:
            word += "en" if front else "an"
        return word


def document(world, seed, split, index):
    """The index-th document of a split: draw until the hash of a text says that split."""
    rng = random.Random(f"{seed}/{split}/{index}")
    kind = rng.choices([k for k, _ in KINDS], [n for _, n in KINDS])[0]
    size = rng.randint(4, 8) if rng.random() < 1 / LONG_SHARE else 1
    while True:
        text = getattr(Maker(world, rng, size), kind)()
        held_back = hashlib.sha256(text.encode()).digest()[0] < 256 // EVAL_SHARE
        if held_back == (split == "eval"):
            return {"text": text, "kind": kind, "id": f"{split}-{index:05d}"}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("output")
    p.add_argument("--split", choices=("train", "eval"), default="train")
    p.add_argument("--documents", type=int, default=1000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    world = World()
    os.makedirs(os.path.dirname(a.output) or ".", exist_ok=True)
    with open(a.output, "w", encoding="utf-8") as f:
        for i in range(a.documents):
            row = document(world, a.seed, a.split, i)
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
