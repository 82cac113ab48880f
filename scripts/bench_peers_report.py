"""Writes docs/ACCURACY.md from the numbers of scripts/bench_peers.py."""

import math
import statistics

VLLM_RS = "vllm-rs bench serve"
# Durations in the numbers are nanoseconds.
MS, US = 1e-6, 1e-3


def dig(run, path):
    for key in path.split("."):
        run = run.get(key) if isinstance(run, dict) else None
    return run


def medians(runs, measure):
    values = [value for value in map(measure, runs) if value is not None]
    return statistics.median(values) if values else None


def of(path, scale=1.0):
    def measure(run):
        value = dig(run, path)
        return None if value is None else value * scale

    return measure


def excess(reported, true, scale):
    def measure(run):
        a, b = dig(run, reported), dig(run, true)
        return None if a is None or b is None else (a - b) * scale

    return measure


def show(value, sign=False):
    """Formats three significant digits; with a sign at most three decimals, which are microseconds."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 3 if size < 1e-6 else min(3 if sign else 6, max(0, (1 if size < 0.1 else 2) - math.floor(math.log10(size))))
    text = f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else "0"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


ACCURACY_HEAD = [
    "client", "rounds", "TTFT p50, reported − true, ms", "TTFT p99, reported − true, ms", "true TTFT p99, ms",
    "ITL p99, reported − true, ms", "true ITL p99, ms", "ITL sd, reported / true, ms",
]  # fmt: skip

COST_HEAD = [
    "client", "CPU of the run, s", "CPU per chunk, µs (least–most)", "CPU of the short run, ms", "peak RSS, MB", "requests lost",
]  # fmt: skip


def whole(runs):
    return [run for run in runs if "failure" not in run]


def accuracy_row(name, runs):
    good = whole(runs)
    return [
        name, str(len(good)),
        show(medians(good, excess("ttft.p50", "true_ttft.p50", MS)), True),
        show(medians(good, excess("ttft.p99", "true_ttft.p99", MS)), True),
        show(medians(good, of("true_ttft.p99", MS))),
        show(medians(good, excess("itl.p99", "true_itl.p99", MS)), True),
        show(medians(good, of("true_itl.p99", MS))),
        f"{show(medians(good, of('itl_sd', MS)))} / {show(medians(good, of('true_itl_sd', MS)))}",
    ]  # fmt: skip


def cost_row(name, runs):
    good = whole(runs)
    failures = [run["failure"] for run in runs if "failure" in run]
    lost, offered = sum(run["lost"] for run in good), sum(run["offered"] for run in good)
    notes = [f"{lost:,} of {offered:,}"] if good else []
    if failures:
        notes.append(f"{len(failures)} of {len(runs)} rounds failed: {failures[0]}")
    cpu = [value for value in map(of("cpu_us_per_chunk"), good) if value is not None]
    between = f" ({show(min(cpu))}–{show(max(cpu))})" if len(cpu) > 1 else ""
    return [
        name, show(medians(good, of("cpu_s"))), show(medians(good, of("cpu_us_per_chunk"))) + between, show(medians(good, of("base_cpu_s", 1000))),
        show(medians(good, of("rss_mb"))), "; ".join(notes),
    ]  # fmt: skip


PAIRED_HEAD = [
    "client", "first chunk p50, µs", "p99", "max", "gap p50, µs", "p99", "max", "its own verdict",
]  # fmt: skip


def paired_row(name, runs):
    good = [run for run in runs if dig(run, "first_error.p50") is not None]
    if not good:
        return None
    cells = [
        show(medians(good, of(f"{what}.{share}", US))) for what in ("first_error", "itl_error") for share in ("p50", "p99", "max")
    ]
    verdicts = [run.get("verdict") for run in good if run.get("verdict")]
    counts = ", ".join(f"{v} {verdicts.count(v)}×" for v in sorted(set(verdicts)))
    uneven = sum(run.get("uneven", 0) for run in good)
    note = f"{uneven:,} responses had another number of gaps than the server's" if uneven else ""
    return [name, *cells, "; ".join(filter(None, [counts, note])) or "–"]


RATIOS = [
    ("CPU of the run", of("cpu_s")), ("CPU per chunk", of("cpu_us_per_chunk")), ("CPU of the short run", of("base_cpu_s")), ("peak RSS", of("rss_mb")),
    ("error of TTFT p99", excess("ttft.p99", "true_ttft.p99", MS)), ("error of ITL p99", excess("itl.p99", "true_itl.p99", MS)),
]  # fmt: skip


def ratio(ours, theirs, measure):
    """The median over rounds of the ratio of absolute values, so that the sign of an error does not matter."""
    by_round = {run["round"]: run for run in theirs if "failure" not in run}
    ratios = []
    for run in ours:
        a, b = measure(run), measure(by_round.get(run["round"], {}))
        if a is not None and b:
            ratios.append(abs(a / b))
    return statistics.median(ratios) if ratios else None


def ratio_rows(groups, loads):
    rows = []
    for load in loads:
        theirs = groups.get((load, VLLM_RS))
        for name in (n for (at, n) in groups if at == load and n.startswith("vb-fire") and theirs):
            rows.append([load, name, *[show(ratio(groups[load, name], theirs, measure)) for _, measure in RATIOS]])
    return rows


def grouped(runs):
    groups = {}
    for run in runs:
        groups.setdefault((run["load"], run["client"]), []).append(run)
    return groups


def start_up_rows(data, groups):
    rows, seen = [], []
    for name in dict.fromkeys(run["client"] for run in data["start_ups"]):
        runs = [run for run in data["start_ups"] if run["client"] == name]
        seen.append(name)
        rows.append([name, str(len(runs)), show(medians(runs, of("start_up_ms")))])
    # The slow clients have no separate run for start-up: it comes from their short run at the first load.
    for (_, name), runs in groups.items():
        if name not in seen and medians(runs, of("base_start_up_ms")) is not None:
            seen.append(name)
            rows.append([name, str(len(runs)), show(medians(runs, of("base_start_up_ms")))])
    return rows


INTRODUCTION = """\
# Accuracy

Does a load generator report what the server really did? This page answers that by measurement, for `vb-fire` and other clients.
`scripts/bench-peers.sh` writes it, and anyone can run that script; the figures apply to the machine and the versions named below.

- [The machine](#the-machine) and [how it is measured](#how-it-is-measured)
- [Loads](#loads): errors and costs for each load, and [request by request](#request-by-request)
{contents}

## The machine

{facts}

## How it is measured

- The server is `vb-sim`. It sends a token of every running request at the same instant, once per step, as an engine with
  continuous batching does, and it logs when it handed each one to the socket. That log is the truth.
- The client has one core (number {client_core}), the server another ({server_core}). They communicate over the loopback interface.
- A load of `512x20` is a closed loop of 512 streams with a step of 20 ms. Each stream sends {waves} requests one after the other
  ({slow_waves} with the clients in Python), but at least {least_requests} in total, with prompts of {input_len} tokens and outputs
  of exactly {output_len}. All clients that need a tokenizer use {tokenizer}.
- Every client runs once per load in all rounds, in a rotating order. Each run has a fresh server. Figures are medians over the
  rounds, or single values where a client has only one.
- A client that fails, or takes more than {limit} s, is in the table with the reason.
- Loopback has no network card, so these figures do not include interrupts, offloads and a real network's jitter. Part of the CPU
  per chunk is the kernel's work for loopback, where the receiver also runs a part of the sender's.
"""

COLUMNS = """\
What the columns mean:

- **reported − true**: the percentile that the client reports, minus the same percentile of the server's log. True TTFT is from the
  kernel's stamp of the request at the server's socket to the first token. The time that simultaneous requests wait for each other
  in the server is in both, so it is not counted as the client's error.
- **ITL sd**: the standard deviation of the gaps between tokens. More than the true one is jitter that the client has added.
- **CPU of the run**: user and system time of the process and its children, from the start to the end.
- **CPU per chunk**: the CPU time of the run, with outputs of {output_len} tokens, minus the CPU time of a short run with outputs of 2,
  divided by the difference in chunks. The **short run** contains start-up and the work per request. For the clients in
  Python both are counted from the first request, because their start-up takes longer than the run, and varies.
- **peak RSS**: the largest process; aiperf and guidellm run several, so their figure is a lower bound.
- **requests lost**: requests, sent or not, without a success in the client's result.
"""

REALISTIC = """\
## Realistic loads

Prompts of {prompts} tokens, outputs of {output_len} tokens or, with `~`, of lengths drawn within 80 % of that. `512x20@128` is a closed
loop in waves: 512 streams, a step of 20 ms, prompts of 128 tokens, {waves} requests of each stream; `200/s` is an open loop of {open_seconds} s.
The server is `examples/referee`, which shares no code with `vb-sim`. **Worst** is the worst of all runs, and **worst of the clean** the
worst of the runs that the client itself called `clean`: a run with another verdict says which of its numbers are off, and by how much.
The errors of the first chunk and of the gaps are defined in [request by request](#request-by-request); TTFT p99 is the reported minus the true
percentile.
"""

REALISTIC_HEAD = [
    "load", "client", "runs", "first chunk p99, µs: median", "worst of the clean", "worst", "gap p99, µs: median", "worst of the clean",
    "worst", "TTFT p99, ms: worst of the clean", "worst", "true TTFT p99, ms", "its own verdict", "requests lost",
]  # fmt: skip


def worst(runs, measure):
    values = [value for value in map(measure, runs) if value is not None]
    return max(values, key=abs, default=None)


def realistic_rows(runs):
    rows = []
    for (load, name), group in grouped(runs).items():
        good = whole(group)
        clean = [run for run in good if run.get("verdict", "clean") == "clean"]
        ttft, cells = excess("ttft.p99", "true_ttft.p99", MS), []
        for what in ("first_error.p99", "itl_error.p99"):
            cells += [show(medians(good, of(what, US))), show(worst(clean, of(what, US))), show(worst(good, of(what, US)))]
        verdicts = [run["verdict"] for run in good if run.get("verdict")]
        counts = ", ".join(f"{v} {verdicts.count(v)}×" for v in sorted(set(verdicts))) or "–"
        failures = [run["failure"] for run in group if "failure" in run]
        lost = f"{sum(run['lost'] for run in good):,} of {sum(run['offered'] for run in good):,}" if good else "–"
        rows.append([
            load, name, str(len(group)), *cells, show(worst(clean, ttft), True), show(worst(good, ttft), True),
            show(medians(good, of("true_ttft.p99", MS))), counts, f"{lost}; {failures[0]}" if failures else lost,
        ])  # fmt: skip
    return rows


def report_realistic(data):
    prompts = sorted({int(run["load"].partition("@")[2].rstrip("~") or data["settings"]["input_len"]) for run in data["realistic"]})
    words = REALISTIC.format(prompts=" and ".join(f"{count:,}" for count in prompts), **data["settings"])
    late = sum(run.get("server_late", False) for run in data["realistic"])
    if late:
        words += f"\nIn {late} of {len(data['realistic'])} runs the server could not keep its own steps. Its log is still true.\n"
    return f"{words}\n{table(REALISTIC_HEAD, realistic_rows(data['realistic']))}\n"


FLOOR = """\
## What reading alone costs

CPU per chunk, µs. `examples/floor.rs` reads the same streams with the same stamps on one thread and discards them, so its cost is
the cost of the kernel and the event loop. It wakes up as soon as a chunk is there; a slower client finds several streams ready at
once, and wakes up less often.
"""

PAIRED = """\
### Request by request

If the client's record names the request and its start, each arrival can be compared with the log: the absolute error of the first
chunk's arrival (start + TTFT − sent), and of each gap. `vllm-rs` does not name its requests in its results; guidellm keeps no
gaps. Max is the median of the largest errors of all rounds. The verdict is the client's own, with its frequency; only `vb-fire` gives
one.
"""


def report(data):
    groups = grouped(data["runs"])
    loads = list(dict.fromkeys(load for load, _ in groups))
    settings = data["settings"]
    facts = [
        *data["machine"], f"Versions: {', '.join(data['versions'])}",
        *[f"Could not be installed: {name}" for name in data["missing"]],
        *[f"Measured by {command}" for command in data["commands"]],
    ]  # fmt: skip
    words = "\n".join(f"- {fact}" for fact in facts)
    sections = [
        "[Realistic loads](#realistic-loads): long prompts, drawn lengths, another server, and the worst of all runs" if data["realistic"] else None,
        "[What reading alone costs](#what-reading-alone-costs)" if data["floor"] else None,
        "[vb-fire against vllm-rs](#vb-fire-against-vllm-rs)" if ratio_rows(groups, loads) else None,
        "[start-up](#start-up)",
        "[generating prompts](#generating-prompts)" if data["gen"] else None,
        "[statistics](#statistics)" if data["stats"] else None,
    ]  # fmt: skip
    contents = "- " + ", ".join(filter(None, sections))
    out = [INTRODUCTION.format(facts=words, contents=contents, **settings)]
    out.append("## Loads\n")
    out.append(COLUMNS.format(**settings))
    for load in loads:
        streams, step = load.split("x")
        at = {name: runs for (there, name), runs in groups.items() if there == load}
        out.append(f"### {int(streams):,} streams, a step of {step} ms\n")
        out.append(table(ACCURACY_HEAD, [accuracy_row(name, runs) for name, runs in at.items()]) + "\n")
        late = sum(run.get("server_late", False) for runs in at.values() for run in runs)
        if late:
            words = f"In {late} of {sum(map(len, at.values()))} runs the server could not keep its own steps."
            out.append(f"{words} Its log is still true.\n")
        out.append(table(COST_HEAD, [cost_row(name, runs) for name, runs in at.items()]) + "\n")
    out.append(PAIRED)
    for load in loads:
        rows = [paired_row(name, runs) for (there, name), runs in groups.items() if there == load]
        if any(rows):
            out.append(f"{load}:\n\n" + table(PAIRED_HEAD, [row for row in rows if row]) + "\n")
    if data["realistic"]:
        out.append(report_realistic(data))
    if data["floor"]:
        out.append(report_floor(data, groups))
    rows = ratio_rows(groups, loads)
    if rows:
        out.append("## vb-fire against vllm-rs\n\nMedians over the rounds of the ratio to vllm-rs; below 1 is less than vllm-rs.\n")
        out.append(table(["load", "client", *[name for name, _ in RATIOS]], rows) + "\n")
    out.append("## Start-up\n\nFrom the start of the process to the arrival of its first request at the server.\n")
    out.append(table(["client", "rounds", "ms"], start_up_rows(data, groups)) + "\n")
    if data["gen"]:
        out.append(report_gen(data))
    if data["stats"]:
        out.append(report_stats(data))
    return "\n".join(out)


def report_floor(data, groups):
    rows = []
    for load in dict.fromkeys(run["load"] for run in data["floor"]):
        seen = [run["cpu_us_per_chunk"] for run in data["floor"] if run["load"] == load and run["cpu_us_per_chunk"] is not None]
        theirs = [show(medians(whole(groups.get((load, name), [])), of("cpu_us_per_chunk"))) for name in ("vb-fire", VLLM_RS)]
        rows.append([load, f"{show(statistics.median(seen))} ({show(min(seen))}–{show(max(seen))})" if seen else "–", *theirs])
    head = ["load", "reading alone (least–most)", "vb-fire", VLLM_RS]
    return f"{FLOOR}\n{table(head, rows)}\n"


def report_gen(data):
    rows = []
    for name in dict.fromkeys(run["client"] for run in data["gen"]):
        runs = [run for run in data["gen"] if run["client"] == name]
        failures = [run["failure"] for run in runs if "failure" in run]
        cells = [show(medians(runs, of(key))) for key in ("wall_s", "cpu_s", "rss_mb")]
        mean = medians(runs, of("mean_len"))
        rows.append([name, str(len(runs)), *cells, f"{mean:,.2f}" if mean else f"failed: {failures[0]}" if failures else "–"])
    settings = data["settings"]
    words = f"{settings['gen_prompts']:,} random prompts of 1,024 tokens, with {settings['tokenizer']}, on all cores."
    head = ["program", "rounds", "wall, s", "CPU, s", "peak RSS, MB", "mean length, tokens"]
    return f"## Generating prompts\n\n{words} The mean length is the program's own count.\n\n{table(head, rows)}\n"


def report_stats(data):
    runs = [run for run in data["stats"] if "failure" not in run]
    cells = [show(medians(runs, of(key))) for key in ("mb", "mb_per_s", "cpu_s", "rss_mb")]
    head = ["rounds", "file, MB", "MB/s", "CPU, s", "peak RSS, MB"]
    words = "`vb-stats` on a file of outputs with 100 tokens each, on one core."
    return f"## Statistics\n\n{words}\n\n{table(head, [[str(len(runs)), *cells]])}\n"
