#!/usr/bin/env python3
"""Counts what makes code hard to enter: dependencies that point up, short names, shared names, idioms.

    scripts/code_figures.py                 the figures of the whole tree
    scripts/code_figures.py --list types    every type name that several types have, with its places
    scripts/code_figures.py --list functions|idioms [--under src/fire]

Functions: outside of tests, names of the standard library's traits and conventions left out (STD). A one-word name has no
underscore. Idioms: fifteen patterns in comments, docs, `--help`, messages and Markdown (Chinese pages left out), per 10,000 words.
"""
import argparse, collections, pathlib, re, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STD = set("""new default fmt from try_from from_str into next drop clone eq ne cmp partial_cmp hash index deref deref_mut borrow as_ref
    as_str as_bytes to_string len is_empty iter iter_mut into_iter push pop get get_mut insert remove contains extend clear read write
    flush poll poll_next run main parse add sub mul sum neg not serialize deserialize to_owned name kind schema_name json_schema command
    value_variants to_possible_value visit_map expecting size_hint fill min max start send recv join open close take count finish end now lines wait find bytes
    values keys first last split skip position drain""".split())
IDIOMS = {
    "told, tell": r"\b(told|tells?|telling)\b",
    "of which": r"\b(of which|those of|that of|of whom|of whose|of those)\b",
    "behind": r"\bbehind\b",
    "is no": r"\b(is|are|was|were) (no|none)\b",
    "stands": r"\b(stands?|stood|standing)\b",
    "beside": r"\b(beside|likewise|meanwhile)\b",
    "whatever": r"\b(whatever|whoever|whichever)\b",
    "so many": r"\bso (many|much)\b",
    "said": r"\bsaid\b",
    "in one piece": r"\bin one piece\b",
    "round": r"\bround\b(?! trip|-trip|-robin| robin| to| number| \d)",
    "nobody": r"\bnobody\b",
    "as X has it": r"\bas [\w.`']+(?: [\w.`']+)? (?:has|have) it\b",
    "calls of tools": r"\bcalls of tools\b",
    "without a word": r"\bwithout a word\b",
}
LAYERS_FILE = ROOT / "tests/it/layers.rs"


def split_source(text):
    """The code without comments and strings, the comments, and the strings, as three texts with the lines kept."""
    code, comments, strings = [], [], []
    i, n = 0, len(text)
    while i < n:
        two = text[i:i + 2]
        if two == "//":
            end = text.find("\n", i)
            end = n if end < 0 else end
            comments.append((text.count("\n", 0, i) + 1, re.sub(r"^//[/!]?", "", text[i:end])))
            i = end
        elif text[i] == '"' or re.match(r'b?r#*"', text[i:i + 8]) and not (i and (text[i - 1].isalnum() or text[i - 1] == "_")):
            raw = re.match(r'b?r(#*)"', text[i:i + 8])
            if raw and text[i] != '"':
                stop = text.find('"' + raw[1], i + raw.end())
                stop = n if stop < 0 else stop
                body, after = text[i + raw.end():stop], stop + 1 + len(raw[1])
            else:
                j = i + 1
                while j < n and text[j] != '"':
                    j += 2 if text[j] == "\\" else 1
                body, after = text[i + 1:j], j + 1
            strings.append((text.count("\n", 0, i) + 1, re.sub(r"\\\n\s*", "", body)))
            code.append('""' + "\n" * text.count("\n", i, after))
            i = after
        elif text[i] == "'" and (m := re.match(r"'(\\.[^']*|[^\\'])'", text[i:i + 12])):
            code.append("' '")
            i += m.end()
        else:
            code.append(text[i])
            i += 1
    return "".join(code), comments, strings


def without_tests(text):
    """Drops `#[cfg(test)]` items that end a file, as all test modules here do."""
    return text.split("#[cfg(test)]\nmod tests", 1)[0]


def sources():
    for path in sorted((ROOT / "src").rglob("*.rs")):
        yield path.relative_to(ROOT), path.read_text()


def prose():
    for path, text in sources():
        _, comments, strings = split_source(text)
        for line, body in comments + [s for s in strings if len(s[1].split()) >= 3]:
            yield path, line, body
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        if not path.name.endswith(".zh.md"):
            for line, body in enumerate(path.read_text().splitlines(), 1):
                yield path.relative_to(ROOT), line, body


def modules():
    """The top-level modules and those each one uses, outside of tests."""
    uses = collections.defaultdict(set)
    for path, text in sources():
        module = path.parts[1].removesuffix(".rs")
        if module in ("bin", "lib"):
            continue
        code, _, _ = split_source(without_tests(text))
        uses[module]
        for m in re.finditer(r"\bcrate::(\{|\w+)", code):
            if m[1] != "{":
                uses[module].add(m[1])
                continue
            depth, item, i = 1, True, m.end()
            while depth and i < len(code):
                c = code[i]
                depth += (c == "{") - (c == "}")
                if c == "," and depth == 1:
                    item = True
                elif item and c.isalpha():
                    uses[module].add(re.match(r"\w+", code[i:])[0])
                    item = False
                i += 1
    for module in uses:
        uses[module] = {u for u in uses[module] if u in uses and u != module}
    return uses


def circles(uses):
    """Groups of modules that use each other, by Tarjan's algorithm."""
    index, low, stack, on, found = {}, {}, [], set(), []
    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v), on.add(v)
        for w in uses[v]:
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            group = []
            while True:
                w = stack.pop()
                on.discard(w)
                group.append(w)
                if w == v:
                    break
            if len(group) > 1:
                found.append(sorted(group))
    for v in sorted(uses):
        if v not in index:
            visit(v)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--list", choices=["functions", "types", "idioms"])
    p.add_argument("--under", default="", help="only places below this path")
    a = p.parse_args()
    functions, types = [], collections.defaultdict(list)
    for path, text in sources():
        code, _, _ = split_source(without_tests(text))
        for number, line in enumerate(code.split("\n"), 1):
            if (m := re.search(r"\bfn (\w+)", line)) and m[1] not in STD:
                functions.append((m[1], path, number))
            if m := re.match(r"\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|union) (\w+)", line):
                types[m[1]].append((path, number))
            elif m := re.match(r"(?:pub(?:\([^)]*\))? )?type (\w+)", line):
                types[m[1]].append((path, number))
    here = lambda path: str(path).startswith(a.under)
    words, hits = 0, collections.Counter()
    idioms = []
    for path, line, body in prose():
        if not here(path):
            continue
        words += len(re.findall(r"[A-Za-z][\w'-]*", body))
        for name, pattern in IDIOMS.items():
            for m in re.finditer(pattern, body, re.I):
                hits[name] += 1
                idioms.append((path, line, name, body.strip()))
    if a.list == "functions":
        for name, path, number in functions:
            if "_" not in name and here(path):
                print(f"{path}:{number}: {name}")
        return
    if a.list == "types":
        for name, places in sorted(types.items(), key=lambda t: -len(t[1])):
            if len(places) > 1 and any(here(p) for p, _ in places):
                print(f"{name}: " + "  ".join(f"{p}:{n}" for p, n in places))
        return
    if a.list == "idioms":
        for path, line, name, body in idioms:
            print(f"{path}:{line}: {name}: {body}")
        return
    functions = [f for f in functions if here(f[1])]
    types = {name: places for name, places in types.items() if any(here(p) for p, _ in places)}
    one_word = [f for f in functions if "_" not in f[0]]
    total = sum(map(len, types.values()))
    shared = sum(len(places) for places in types.values() if len(places) > 1)
    layers = LAYERS_FILE.read_text()
    order = re.search(r"const LAYERS[^=]*= &\[\n(.*?)\n\];", layers, re.S)
    level = {m: i for i, row in enumerate(order[1].split("\n")) for m in re.findall(r'"(\w+)"', row)}
    allowed = re.search(r"const ALLOWED[^=]*= &\[(.*?)\n?\];", layers, re.S)
    uses = modules()
    up = sorted((m, u) for m in uses for u in uses[m] if level.get(u, -1) > level.get(m, 99))
    found = circles(uses)
    print(f"modules {len(uses)}, dependencies {sum(map(len, uses.values()))}, pointing up {len(up)} {up or ''}")
    print(f"circles {len(found)} {found or ''}")
    print(f"exceptions of layers.rs {len(re.findall(r'^ *[(]', allowed[1], re.M))}")
    print(f"functions {len(functions)}, one word {len(one_word)} ({100 * len(one_word) / max(1, len(functions)):.1f} %), called `of` {sum(f[0] == 'of' for f in functions)}")
    print(f"types {total}, sharing their name {shared} ({100 * shared / max(1, total):.1f} %)")
    print(f"words of prose {words}, idioms {sum(hits.values())} ({1e4 * sum(hits.values()) / max(1, words):.1f} per 10,000)")
    print("  " + ", ".join(f"{name} {n}" for name, n in hits.most_common()))


sys.exit(main())
