"""The measurements of scripts/bench-peers.sh: compares the reports of load generators with the truth.

The truth is the log of the server, vb-sim or examples/referee, which has the time at which each token was handed to the socket. Server and client run on
separate cores. Needs Linux and only the standard library.
"""

import argparse
import contextlib
import ctypes
import datetime
import decimal
import json
import math
import os
import pathlib
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

from bench_peers_report import MS, US, VLLM_RS, excess, of, report, show
from check_vllm import make_model

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = "tiny"
# The program of examples/floor.rs.
FLOOR = "floor"
# The fewest requests of a run: with fewer, the varying cost of start-up would hide the cost of chunks.
MIN_REQUESTS = 512
# A tokenizer.json for all clients; None: the built-in tokenizer.
TOKENIZER = os.environ.get("TOKENIZER")
INPUT_LEN = 8
LIMIT = 180  # seconds that a client may take
SECOND = 1_000_000_000


def say(text):
    print(f"bench-peers: {text}", file=sys.stderr, flush=True)


# ---- numbers -------------------------------------------------------------------------------------------------------


def nanoseconds(text):
    """Converts seconds in a JSON file to whole nanoseconds: a double has too few digits for an instant."""
    whole, _, part = text.partition(".")
    if part.isdigit() and len(part) <= 9:
        value = int(part.ljust(9, "0"))
        return int(whole) * SECOND + value if whole[0] != "-" else int(whole) * SECOND - value
    return int(decimal.Decimal(text) * SECOND)


def lines_in_nanoseconds(path):
    with open(path) as file:
        return [json.loads(line, parse_float=nanoseconds) for line in file if line.strip()]


def percentile(values, share):
    """A percentile with linear interpolation, as in all clients."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def deviation(values):
    if not values:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


def spread(values):
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values, default=None)}


# ---- processes -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_core(core):
    """Runs processes that are started inside on that core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Use:
    """Resources used by a process and the children that it waited for."""

    started: int  # Unix nanoseconds
    wall: float
    cpu: float
    rss: int  # bytes, of the largest process
    code: int
    timed_out: bool
    meter: list = field(default_factory=list)  # (Unix nanoseconds, CPU seconds until then)

    def cpu_since(self, instant):
        """CPU seconds since `instant`; without a meter, all CPU seconds."""
        return self.cpu - max((cpu for at, cpu in self.meter if at <= instant), default=0.0)


class Meter(threading.Thread):
    """Reads the CPU time of the processes of a session at intervals.

    A client in Python spends more on its start-up than on a run, and the amount varies. The readings allow to leave the
    start-up out, and they include processes that no parent waits for.
    """

    def __init__(self, session):
        super().__init__(daemon=True)
        self.session, self.readings, self.done = session, [], threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            self.readings.append((time.time_ns(), session_cpu(self.session)))

    def stop(self):
        self.done.set()
        self.join()
        return self.readings


def session_cpu(session):
    """CPU seconds of the processes of a session and of the children that they waited for (proc(5), `stat`)."""
    ticks = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = pathlib.Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def become_subreaper():
    """Makes orphans of the processes that we start our children (prctl's PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def launch(argv, core, folder, stdin=None, stdout=None, env=None, limit=LIMIT, metered=False):
    """Runs a client on a core until it ends.

    A process inherits the peak memory of the process that forked it, so this interpreter starts a small shell that starts
    the client. The shell exits immediately, and the client becomes our child.
    """
    pid_file = folder / "pid"
    pid_file.unlink(missing_ok=True)
    script = 'exec 3<&0; "$@" <&3 3<&- & echo $! >"$0"'
    cores = {core} if core is not None else os.sched_getaffinity(0)
    with contextlib.ExitStack() as files, open(folder / "stderr", "wb") as stderr:
        source = files.enter_context(open(stdin or os.devnull, "rb"))
        sink = files.enter_context(open(stdout or folder / "stdout", "wb"))
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        started, clock = time.time_ns(), time.monotonic()
        shell = subprocess.Popen(
            ["sh", "-c", script, pid_file, *map(str, argv)],
            stdin=source, stdout=sink, stderr=stderr, start_new_session=True, env=dict(os.environ, **(env or {})),
        )
        os.sched_setaffinity(0, before)
        shell.wait()
    pid = int(pid_file.read_text())
    late = threading.Event()

    def stop():
        late.set()
        os.killpg(shell.pid, signal.SIGKILL)

    timer, meter = threading.Timer(limit, stop), Meter(shell.pid)
    timer.start()
    if metered:
        meter.start()
    try:
        _, status, rusage = os.wait4(pid, 0)
        wall = time.monotonic() - clock
    finally:
        timer.cancel()
        # Kill remaining processes of the client, or the client itself if we are interrupted.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    readings = meter.stop() if metered else []
    cpu = max([rusage.ru_utime + rusage.ru_stime, *(cpu for _, cpu in readings)])
    return Use(started, wall, cpu, rusage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status), late.is_set(), readings)


class Server:
    """A new server on a separate core, and its log of the truth."""

    def __init__(self, argv, core, folder):
        self.log, self.words = folder / "truth.ndjson", folder / "server-stderr"
        with on_core(core), open(self.words, "wb") as stderr:
            self.process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            sys.exit(f"bench-peers: the server did not start: {self.words.read_text().strip()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=30) != 0:
            sys.exit(f"bench-peers: the server ended with {self.process.returncode}: {self.words.read_text().strip()}")
        # It warns once if it could not keep up.
        self.late = "too slow for the load" in self.words.read_text()
        return {line["request_id"]: line for line in lines_in_nanoseconds(self.log)}


class Referee(Server):
    """The server of examples/referee, which shares no code with vb-sim."""

    def __init__(self, program, core, folder, load):
        super().__init__([program, "--port", "0", "--step", f"{load.step}ms", "--log", folder / "truth.ndjson"], core, folder)


class Simulator(Server):
    """vb-sim."""

    def __init__(self, tools, core, folder, load, tls):
        seqs = max(256, load.streams)
        argv = [
            tools.bin / "vb-sim", "--port", "0", "--tokenizer", tools.model, "--truth-log", folder / "truth.ndjson",
            "--step-base", f"{load.step}ms", "--step-per-prefill-token", "0", "--step-per-context-token", "0",
            "--max-num-seqs", seqs, "--max-num-batched-tokens", seqs * 64, "--num-gpu-blocks", seqs * 32,
        ]  # fmt: skip
        if tls:
            argv += ["--tls-cert", ROOT / "tests/data/tls-cert.pem", "--tls-key", ROOT / "tests/data/tls-key.pem"]
        super().__init__(argv, core, folder)



# ---- clients -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Load:
    streams: int
    step: int  # milliseconds
    prompt: int = INPUT_LEN
    drawn: bool = False  # whether output lengths differ, by up to 80 % in both directions
    rate: int = 0  # requests per second; 0: a closed loop of the streams

    @staticmethod
    def parse(text):
        found = re.fullmatch(r"(\d+)x(\d+)(?:ms)?(?:@(\d+))?(~)?", text)
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is not a load; use STREAMSxMILLISECONDS, as 512x20")
        return Load(int(found[1]), int(found[2]), int(found[3] or INPUT_LEN), bool(found[4]))

    @staticmethod
    def parse_realistic(text):
        found = re.fullmatch(r"(\d+)/sx(\d+)(@\d+)?(~)?", text)
        if not found:
            return Load.parse(text)
        rate, step = int(found[1]), int(found[2])
        return Load(0, step, int((found[3] or f"@{INPUT_LEN}")[1:]), bool(found[4]), rate)

    def ratio(self):
        return 0.8 if self.drawn else 0

    def flags(self, rate, concurrency):
        """The flags of a client for its rate or its streams."""
        return [rate, self.rate] if self.rate else [concurrency, self.streams]

    def __repr__(self):
        load = f"{self.rate}/sx{self.step}" if self.rate else f"{self.streams}x{self.step}"
        return load + (f"@{self.prompt}" if self.prompt != INPUT_LEN else "") + ("~" if self.drawn else "")


@dataclass
class Run:
    """The task of a client."""

    url: str
    load: Load
    count: int
    output_len: int
    folder: pathlib.Path


@dataclass
class Sample:
    """One successful request as a client reports it; durations in nanoseconds."""

    ttft: float
    itl: list = None  # None: not kept
    request_id: str = None  # None: unknown, so the request cannot be found in the server's log
    start: float = None  # Unix nanoseconds; None: not reported


@dataclass
class Tools:
    bin: pathlib.Path
    model: pathlib.Path
    requests: dict = field(default_factory=dict)

    def requests_file(self, count, output_len, folder, load=None):
        """The requests of vb-fire, made once."""
        prompt, ratio = (load.prompt, load.ratio()) if load else (INPUT_LEN, 0)
        key = (count, output_len, prompt, ratio)
        if key not in self.requests:
            path = folder / f"requests-{len(self.requests)}.ndjson"
            argv = ["--tokenizer", self.model, "--input-len", prompt, "--output-len", output_len, "--num-prompts", count]
            argv += ["--range-ratio", json.dumps({"input": 0, "output": ratio})]
            with open(path, "wb") as out:
                subprocess.run([self.bin / "vb-gen", *map(str, argv)], stdout=out, check=True)
            self.requests[key] = path
        return self.requests[key]


class VbFire:
    slow, ours = False, True

    def __init__(self, tools, name="vb-fire", flags=(), tls=False):
        self.tools, self.name, self.flags, self.tls = tools, name, list(flags), tls
        self.env = {}

    def version(self):
        return subprocess.run([self.tools.bin / "vb-fire", "--version"], capture_output=True, text=True).stdout.strip()

    def command(self, run):
        return [
            self.tools.bin / "vb-fire", "--base-url", run.url, "--model", MODEL,
            *run.load.flags("--request-rate", "--max-concurrency"), *self.flags,
        ]  # fmt: skip

    def streams(self, run):
        source = self.tools.requests_file(run.count, run.output_len, run.folder.parent, run.load)
        return {"stdin": source, "stdout": run.folder / "outputs.ndjson"}

    def read(self, run, result):
        samples = []
        for line in lines_in_nanoseconds(run.folder / "outputs.ndjson"):
            if line["type"] == "end":
                result["verdict"] = line.get("verdict")
                result["reasons"] = line.get("reasons", [])
            elif line["type"] == "output" and line["success"]:
                samples.append(Sample(line["ttft"], line["itl"], line["request_id"], line["start_time"]))
                result["stamp"] = line.get("stamp")
        return samples


class Peer:
    """A client of another project: a program that writes a file."""

    slow, ours, tls = True, False, False
    distribution = None

    def __init__(self, program, tools):
        self.program, self.tools = pathlib.Path(program), tools
        self.env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

    def version(self):
        code = f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
        python = self.program.resolve().parent / "python"
        found = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout if python.exists() else ""
        return f"{self.name} {found.strip() or 'of unknown version'}"

    def streams(self, run):
        return {}


class VllmBench(Peer):
    """`vllm bench serve` in Python."""

    name, distribution = "vllm bench serve", "vllm"
    prefix = "bench-peers-"

    def command(self, run):
        return [
            self.program, "bench", "serve", "--base-url", run.url, "--model", MODEL, "--tokenizer", self.tools.model,
            "--backend", "openai", "--endpoint", "/v1/completions", "--dataset-name", "random",
            "--random-input-len", run.load.prompt, "--random-output-len", run.output_len, "--num-prompts", run.count,
            "--random-range-ratio", json.dumps({"input": 0, "output": run.load.ratio()}),
            *run.load.flags("--request-rate", "--max-concurrency"), "--ignore-eos", "--request-id-prefix", self.prefix, "--disable-tqdm",
            "--save-result", "--save-detailed", "--result-dir", run.folder, "--result-filename", "result.json",
        ]  # fmt: skip

    def read(self, run, result):
        data = json.loads((run.folder / "result.json").read_text())
        # Its start times come from the monotonic clock.
        offset = time.time_ns() - time.monotonic_ns()
        rows = zip(data["ttfts"], data["itls"], data["start_times"], data["errors"])
        return [
            Sample(ttft * SECOND, [gap * SECOND for gap in itl], *self.identity(index, start * SECOND + offset))
            for index, (ttft, itl, start, error) in enumerate(rows)
            if not error
        ]

    def identity(self, index, start):
        return f"{self.prefix}{index}", start


class VllmRs(VllmBench):
    """`vllm-rs bench serve`, the same in Rust."""

    name, slow = VLLM_RS, False

    def version(self):
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()

    def identity(self, index, start):
        # Its results are not in the order of its request ids, and its start times count from an unknown instant.
        return None, None


class Aiperf(Peer):
    name = distribution = "aiperf"

    def __init__(self, program, tools):
        super().__init__(program, tools)
        # In offline mode it treats the path of a tokenizer as a name on the hub.
        self.env = {"DO_NOT_TRACK": "1"}

    def command(self, run):
        return [
            self.program, "profile", "-m", MODEL, "--url", run.url, "--endpoint-type", "completions", "--streaming",
            "--concurrency", run.load.streams, "--request-count", run.count, "--isl", INPUT_LEN, "--isl-stddev", 0,
            "--osl", run.output_len, "--osl-stddev", 0, "--extra-inputs", "ignore_eos:true", "--use-server-token-count",
            "--tokenizer", self.tools.model, "--artifact-dir", run.folder / "aiperf", "--ui", "none",
        ]  # fmt: skip

    def read(self, run, result):
        samples = []
        for line in (run.folder / "aiperf/profile_export.jsonl").read_text().splitlines():
            row = json.loads(line)
            metrics, metadata = row.get("metrics") or {}, row["metadata"]
            if row.get("error") or "time_to_first_token" not in metrics:
                continue
            gaps = metrics.get("inter_chunk_latency", {"value": []})["value"]
            samples.append(
                Sample(
                    metrics["time_to_first_token"]["value"] * 1e6, [gap * 1e6 for gap in gaps],
                    metadata["x_request_id"], metadata["request_start_ns"],
                )
            )  # fmt: skip
        return samples


class Guidellm(Peer):
    name = distribution = "guidellm"

    def command(self, run):
        return [
            self.program, "run", "--backend", f"kind=openai_http,target={run.url},model={MODEL},request_format=/v1/completions",
            "--tokenizer", f"kind=huggingface_auto,model={self.tools.model}",
            "--profile", f"kind=concurrent,streams={run.load.streams}", "--constraint", f"kind=max_requests,count={run.count}",
            "--data", f"kind=synthetic_text,prompt_tokens={INPUT_LEN},output_tokens={run.output_len}",
            "--output", f"kind=json,path={run.folder / 'result.json'}", "--disable-console",
        ]  # fmt: skip

    def read(self, run, result):
        data = json.loads((run.folder / "result.json").read_text())
        # It records no gaps between tokens. The response's id contains the server's id of the request.
        return [
            Sample(
                row["time_to_first_token_ms"] * 1e6, None,
                str(row.get("response_id")).removeprefix("cmpl-"), row["request_start_time"] * SECOND,
            )
            for row in data["benchmarks"][0]["requests"]["successful"]
        ]  # fmt: skip


# ---- one measurement -----------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        # Distinguishes the rounds of this run from the rounds of earlier runs.
        self.began = int(time.time())
        self.client_core, self.server_core = args.cores
        self.tools = Tools(pathlib.Path(args.bin).resolve(), folder / "model")
        # A model folder that the peers can load.
        make_model(TOKENIZER or ROOT / "src/tokens/builtin.json", self.tools.model)

    def once(self, client, load, output_len, count, server=None):
        """Runs one client against a new server; returns its resources, its report and the truth."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        sim = server(folder) if server else Simulator(self.tools, self.server_core, folder, load, client.tls)
        run = Run(sim.url, load, count, output_len, folder)
        argv, streams = client.command(run), client.streams(run)
        use = launch(argv, self.client_core, folder, env=client.env, metered=client.slow, **streams)
        truth, samples = sim.stop(), []
        result = {"server_late": sim.late}
        if use.timed_out:
            result["failure"] = f"it did not finish within {LIMIT} s"
        else:
            try:
                samples = client.read(run, result)
            except (OSError, KeyError, IndexError, TypeError, ValueError) as e:
                result["failure"] = f"exit {use.code}, no result ({type(e).__name__}): {last_words(folder)}"
        if use.code != 0 and "failure" not in result and not client.ours:
            result["failure"] = f"exit {use.code}: {last_words(folder)}"
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()
        return use, samples, truth, result

    def measure(self, client, load):
        """Measures a long run, and a short one whose cost is subtracted to get the cost of chunks."""
        waves = self.args.slow_waves if client.slow else self.args.waves
        count = max(load.streams * waves, MIN_REQUESTS)
        base_use, _, base_truth, base = self.once(client, load, 2, count)
        if "failure" in base:
            return base
        use, samples, truth, result = self.once(client, load, self.args.output_len, count)
        result.update(compare(samples, truth))
        result["cpu_us_per_chunk"] = cpu_per_chunk((use, truth), (base_use, base_truth))
        result.update(
            base_cpu_s=base_use.cpu, cpu_s=use.cpu, wall_s=use.wall, rss_mb=use.rss / 1e6,
            offered=count, lost=count - len(samples), base_start_up_ms=start_up(base_use, base_truth),
        )  # fmt: skip
        return result

    def check(self, client, load):
        """Compares the report of one run with the truth of the referee."""
        count = load.rate * self.args.open_seconds if load.rate else load.streams * self.args.waves
        server = lambda folder: Referee(self.args.referee, self.server_core, folder, load)
        use, samples, truth, result = self.once(client, load, self.args.output_len, count, server)
        if "failure" not in result:
            result.update(compare(samples, truth), offered=count, lost=count - len(samples), cpu_s=use.cpu)
        return result

    def floor(self, load):
        """Measures a program that reads the streams without parsing them."""

        def once(output_len):
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
            sim = Simulator(self.tools, self.server_core, folder, load, tls=False)
            use = launch([self.args.floor, sim.url, load.streams, output_len], self.client_core, folder)
            truth = sim.stop()
            if use.code != 0:
                sys.exit(f"bench-peers: {FLOOR} ended with {use.code}: {last_words(folder)}")
            return use, truth

        base = once(2)
        return {"cpu_us_per_chunk": cpu_per_chunk(once(self.args.output_len), base)}

    def start_up(self, client):
        """Measures the time from the start of the process until its first request reaches the server."""
        use, samples, truth, result = self.once(client, Load(1, 5), 2, 1)
        return dict(result, start_up_ms=start_up(use, truth), cpu_s=use.cpu, rss_mb=use.rss / 1e6, lost=1 - len(samples))


def cpu_per_chunk(long, short):
    """The cost per additional chunk, in microseconds; None: smaller than the variation between two runs."""
    (use, truth), (base_use, base_truth) = long, short
    chunks = sum(len(t["sent"]) for t in truth.values()) - sum(len(t["sent"]) for t in base_truth.values())
    cost = use.cpu_since(first_received(truth)) - base_use.cpu_since(first_received(base_truth))
    return cost / chunks * 1e6 if chunks > 0 and cost > 0 else None


def first_received(truth):
    return min((t["received"] for t in truth.values()), default=0)


def start_up(use, truth):
    return (first_received(truth) - use.started) / 1e6 if truth else None


def last_words(folder):
    text = b"".join((folder / name).read_bytes() for name in ("stdout", "stderr") if (folder / name).exists())
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip(" │╰─╯╭╮")]
    return re.sub(r"\x1b\[[0-9;]*m|/\S*/", "", lines[-1]).strip()[:160] if lines else "no output"


def compare(samples, truth):
    """Compares reported and true times: as distributions, and per request if the requests can be identified."""
    answered = {i: t for i, t in truth.items() if t["sent"]}
    # From the kernel's stamp of the request, so that the time that requests wait at the server for each other does not count as
    # an error of the client.
    true_ttft = [t["sent"][0] - t["arrived"] for t in answered.values()]
    true_itl = [b - a for t in answered.values() for a, b in zip(t["sent"], t["sent"][1:])]
    ttft = [s.ttft for s in samples]
    itl = [gap for s in samples for gap in s.itl or ()]
    result = {
        "true_ttft": spread(true_ttft), "ttft": spread(ttft), "true_itl": spread(true_itl), "true_itl_sd": deviation(true_itl),
        "itl": spread(itl), "itl_sd": deviation(itl), "samples": len(samples),
    }  # fmt: skip
    first, gaps, uneven = [], [], 0
    for s in samples:
        sent = answered.get(s.request_id, {}).get("sent")
        if sent is None:
            continue
        if s.start is not None:
            first.append(abs(s.start + s.ttft - sent[0]))
        if s.itl is not None and len(s.itl) == len(sent) - 1:
            gaps += (abs(gap - (b - a)) for gap, a, b in zip(s.itl, sent, sent[1:]))
        elif s.itl is not None:
            uneven += 1
    result.update(first_error=spread(first), itl_error=spread(gaps), uneven=uneven)
    return result


# ---- generating and reading ----------------------------------------------------------------------------------------


def vb_gen(bench, folder, tokenizer, prompts):
    """Generates random prompts of 1,024 tokens with vb-gen, on all cores."""
    lengths = ["--input-len", 1024, "--output-len", 128, "--num-prompts", prompts]
    argv = [bench.tools.bin / "vb-gen", "--tokenizer", tokenizer, *lengths]
    use = launch(argv, None, folder, stdout=folder / "prompts.ndjson")
    seen = [json.loads(line)["prompt_len"] for line in open(folder / "prompts.ndjson")]
    return gen_row("vb-gen", use, statistics.fmean(seen) if seen else None)


def vllm_rs_gen(bench, folder, tokenizer, prompts):
    """Generates the same with vllm-rs, which prints only the total length and not the prompts."""
    argv = [
        bench.args.vllm_rs, "bench", "serve", "--dry-run", "--model", MODEL, "--tokenizer", tokenizer,
        "--dataset-name", "random", "--random-input-len", 1024, "--random-output-len", 128, "--num-prompts", prompts,
    ]  # fmt: skip
    use = launch(argv, None, folder)
    text = (folder / "stdout").read_text() + (folder / "stderr").read_text()
    total = re.search(r"Total input tokens:\s*(\d+)", text)
    return gen_row("vllm-rs bench serve --dry-run", use, int(total[1]) / prompts if total else None)


def bench_gen(bench, tokenizer, prompts, number):
    """Runs each generator once, in an order that changes with the round."""
    folder = bench.folder / "gen"
    folder.mkdir(exist_ok=True)
    generators = [vb_gen, vllm_rs_gen] if bench.args.vllm_rs else [vb_gen]
    order = generators[number % len(generators) :] + generators[: number % len(generators)]
    return [generate(bench, folder, tokenizer, prompts) for generate in order]


def gen_row(client, use, mean):
    if use.timed_out or use.code != 0:
        return {"client": client, "failure": f"it did not finish within {LIMIT} s" if use.timed_out else f"exit {use.code}"}
    return {"client": client, "wall_s": use.wall, "cpu_s": use.cpu, "rss_mb": use.rss / 1e6, "mean_len": mean}


def make_outputs(bench, megabytes=200):
    """Writes a file of that size with real outputs of vb-fire."""
    folder = bench.folder / "stats"
    folder.mkdir(exist_ok=True)
    path, source = folder / "outputs.ndjson", folder / "once.ndjson"
    sim = Simulator(bench.tools, bench.server_core, folder, Load(512, 5), False)
    with open(bench.tools.requests_file(1024, 100, bench.folder)) as requests, open(source, "wb") as out:
        argv = [bench.tools.bin / "vb-fire", "--base-url", sim.url, "--model", MODEL, "--max-concurrency", "512"]
        subprocess.run(list(map(str, argv)), stdin=requests, stdout=out, stderr=subprocess.DEVNULL, check=True)
    sim.stop()
    head, *outputs, end = source.read_bytes().splitlines(keepends=True)
    body = b"".join(outputs)
    repeats = math.ceil(megabytes * 1e6 / len(body))
    # With more outputs than its end record has requests, a run would be in the input twice.
    record = json.loads(end)
    record["offered"] *= repeats
    with open(path, "wb") as out:
        out.write(head)
        for _ in range(repeats):
            out.write(body)
        out.write(json.dumps(record).encode() + b"\n")
    return path


def bench_stats(bench, path):
    use = launch([bench.tools.bin / "vb-stats"], bench.client_core, path.parent, stdin=path, stdout=path.parent / "result.json")
    if use.code != 0:
        return {"failure": f"exit {use.code}: {last_words(path.parent)}"}
    size = path.stat().st_size
    return {"mb": size / 1e6, "mb_per_s": size / 1e6 / use.wall, "wall_s": use.wall, "cpu_s": use.cpu, "rss_mb": use.rss / 1e6}


# ---- the program -----------------------------------------------------------------------------------------------------


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return [
        f"CPU: {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {int(memory[1]) / 1e6:.0f} GB of memory",
        f"Kernel: {platform.system()} {platform.release()}",
    ]


def revision():
    found = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%h"], capture_output=True, text=True)
    return found.stdout.strip()


def command_typed():
    """The command line for the document, without the folders of this machine."""
    words = shlex.split(os.environ.get("VB_COMMAND") or shlex.join(["scripts/bench_peers.py", *sys.argv[1:]]))
    return " ".join(w if re.match("[A-Z]+=", w) else shlex.quote(pathlib.Path(w).name if w[:1] == "/" else w) for w in words)


def make_clients(args, tools):
    help_text = subprocess.run([tools.bin / "vb-fire", "--help"], capture_output=True, text=True).stdout
    found = [VbFire(tools)]
    if "--transport" in help_text:
        found.append(VbFire(tools, "vb-fire --transport portable", ["--transport", "portable"]))
    else:
        say("this vb-fire has no --transport; skipping the portable one")
    found.append(VbFire(tools, "vb-fire, TLS", ["--insecure"], tls=True))
    for program, kind in ((args.vllm_rs, VllmRs), (args.vllm, VllmBench), (args.aiperf, Aiperf), (args.guidellm, Guidellm)):
        if program:
            found.append(kind(program, tools))
    unknown = set(args.clients or ()) - {client.name for client in found} - {FLOOR}
    if unknown:
        sys.exit(f"bench-peers: unknown client {sorted(unknown)[0]!r}; available: {', '.join(c.name for c in found)}")
    return [client for client in found if not args.clients or client.name in args.clients]


def parse_args():
    parser = argparse.ArgumentParser(
        prog="scripts/bench-peers.sh", description="Measures load generators against the truth log of vb-sim.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    load = Load.parse
    parser.add_argument("--rounds", type=int, default=5, help="rounds of vb-fire and vllm-rs")
    parser.add_argument("--loads", type=load, nargs="+", default=[load(t) for t in ("64x20", "512x20", "512x7", "2048x50")],
                        metavar="LOAD", help="streams x step in ms, for vb-fire and vllm-rs")  # fmt: skip
    parser.add_argument("--slow-rounds", type=int, default=5, help="rounds of the clients in Python")
    parser.add_argument("--slow-loads", type=load, nargs="+", default=[load("64x20"), load("512x20")], metavar="LOAD",
                        help="loads of the clients in Python")  # fmt: skip
    parser.add_argument("--solo-load", type=load, default=load("4096x50"), metavar="LOAD", help="a load for vb-fire alone")
    parser.add_argument("--solo-rounds", type=int, default=3, help="rounds of that load; 0 skips it")
    parser.add_argument("--realistic-loads", type=Load.parse_realistic, nargs="*", metavar="LOAD",
                        default=[Load.parse_realistic(t) for t in ("64x20@128", "512x20@128", "512x20@128~", "512x20@2048", "4096x50@128", "200/sx20@128~")],
                        help="loads for vb-fire and vllm-rs against examples/referee: @ gives the tokens of a prompt, ~ draws output "
                             "lengths, and 200/s is an open loop")  # fmt: skip
    parser.add_argument("--realistic-rounds", type=int, default=5, help="rounds of these loads; 0 skips them")
    parser.add_argument("--open-seconds", type=int, default=20, help="how long the open loop takes")
    parser.add_argument("--waves", type=int, default=4, help="requests of each stream, one after another")
    parser.add_argument("--slow-waves", type=int, default=2, help="the same for the clients in Python")
    parser.add_argument("--output-len", type=int, default=100, help="tokens of each response")
    parser.add_argument("--clients", nargs="+", metavar="NAME", help="only these clients, by their names in the document")
    parser.add_argument("--quick", action="store_true", help="one round of small loads, to try the script")
    parser.add_argument("--gen", action="store_true", help="also time vb-gen, with the tokenizer.json that TOKENIZER names, if set")
    parser.add_argument("--gen-prompts", type=int, default=10000, help="prompts for --gen")
    parser.add_argument("--stats", action="store_true", help="also time vb-stats")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1], metavar="N", help="the client's core and the server's")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the raw numbers")
    parser.add_argument("--with", type=pathlib.Path, nargs="+", default=[], dest="earlier", metavar="FILE",
                        help="also include the raw numbers of earlier runs on this machine")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/ACCURACY.md", help="the document")
    for name in ("--bin", "--floor", "--referee", "--vllm-rs", "--vllm", "--aiperf", "--guidellm"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--missing", action="append", default=[], help=argparse.SUPPRESS)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(
            rounds=1, slow_rounds=1, solo_rounds=1, loads=[load("64x20"), load("512x20")], slow_loads=[load("64x20")],
            solo_load=load("1024x50"), waves=2, output_len=30, gen_prompts=1000, open_seconds=2, realistic_rounds=1,
            realistic_loads=[load("64x20@128~"), Load.parse_realistic("100/sx20@128")],
        )  # fmt: skip
    return parser.parse_args()


def measure_all(args, bench, clients, data):
    loads = list(dict.fromkeys([*args.loads, *args.slow_loads]))
    floor = args.floor and (not args.clients or FLOOR in args.clients)
    all_rounds = [args.slow_rounds if client.slow else args.rounds for client in clients] + [args.rounds if floor else 0]
    for number in range(max(all_rounds)):
        turn = number % max(1, len(clients))
        order = clients[turn:] + clients[:turn]
        for client in order:
            if not client.slow:
                data["start_ups"].append(dict(bench.start_up(client), client=client.name, round=f"{bench.began}-{number}"))
        for load in loads:
            for client in order:
                rounds, wanted = (args.slow_rounds, args.slow_loads) if client.slow else (args.rounds, args.loads)
                if number < rounds and load in wanted:
                    one(bench, client, load, number, data)
            if floor and number < args.rounds and load in args.loads:
                data["floor"].append(dict(bench.floor(load), load=str(load), round=f"{bench.began}-{number}"))
                say(f"round {number + 1}, {load}, {FLOOR}: {show(data['floor'][-1]['cpu_us_per_chunk'])} µs per chunk")
        save(args, data)
    for number in range(args.realistic_rounds if args.referee else 0):
        for load in args.realistic_loads:
            for client in (c for c in clients if c.name in ("vb-fire", VLLM_RS)):
                result = bench.check(client, load)
                data["realistic"].append(dict(result, client=client.name, load=str(load), round=f"{bench.began}-{number}"))
                words = result.get("failure") or (
                    f"TTFT p99 {show(excess('ttft.p99', 'true_ttft.p99', MS)(result), True)} ms, "
                    f"first chunk p99 {show(of('first_error.p99', US)(result))} µs, {result.get('verdict')}"
                )
                say(f"round {number + 1}, {load}, {client.name}: {words}")
        save(args, data)
    for number in range(args.solo_rounds):
        for client in (c for c in clients if c.name == "vb-fire"):
            one(bench, client, args.solo_load, number, data)


def one(bench, client, load, number, data):
    began = time.monotonic()
    result = bench.measure(client, load)
    data["runs"].append(dict(result, client=client.name, load=str(load), round=f"{bench.began}-{number}"))
    if "failure" in result:
        words = result["failure"]
    else:
        words = (
            f"TTFT p99 {show(excess('ttft.p99', 'true_ttft.p99', MS)(result), True)} ms, "
            f"ITL p99 {show(excess('itl.p99', 'true_itl.p99', MS)(result), True)} ms, "
            f"{show(result.get('cpu_us_per_chunk'))} µs per chunk, {show(result['rss_mb'])} MB, {result['lost']} lost"
        )
    say(f"round {number + 1}, {load}, {client.name}: {words} ({time.monotonic() - began:.0f} s)")


def tokenizer_in_words():
    if not TOKENIZER:
        return "the built-in tokenizer of vb"
    size = len(json.loads(pathlib.Path(TOKENIZER).read_text())["model"]["vocab"])
    return f"the tokenizer of a real model, {size:,} tokens"


def measure_tools(args, bench, data):
    tokenizer = (bench.tools.model / "tokenizer.json").resolve()
    data["settings"].update(gen_prompts=args.gen_prompts)
    outputs = make_outputs(bench) if args.stats else None
    for number in range(min(3, args.rounds)):
        if args.gen:
            rows = bench_gen(bench, tokenizer, args.gen_prompts, number)
            data["gen"] += rows
            say("generating: " + ", ".join(f"{r['client']} {show(r.get('wall_s'))} s" for r in rows))
        if args.stats:
            data["stats"].append(bench_stats(bench, outputs))
            say(f"vb-stats: {show(data['stats'][-1].get('mb_per_s'))} MB/s")
        save(args, data)


def take_earlier(paths, data):
    """Adds the raw numbers of earlier runs, which must have the same settings."""
    for path in paths:
        try:
            earlier = json.loads(path.read_text())
        except (OSError, ValueError) as e:
            sys.exit(f"bench-peers: {path} has no numbers of an earlier run: {e}")
        for key in ("runs", "realistic", "start_ups", "gen", "stats", "floor", "commands"):
            data[key] += earlier.get(key, [])
        data["versions"] = list(dict.fromkeys([*data["versions"], *earlier["versions"]]))
        for key, value in earlier["settings"].items():
            if data["settings"].setdefault(key, value) != value:
                sys.exit(f"bench-peers: {path} was measured with {key} = {value}, and not {data['settings'][key]}")


def save(args, data):
    """Saves the raw numbers after each round. After an interruption, --with continues from them."""
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")


def measured_otherwise(document):
    """The end of the document, which other scripts measured."""
    mark = "\n## Stamps by packets\n"
    _, found, end = document.read_text().partition(mark) if document.exists() else ("", "", "")
    return found + end


def main():
    args = parse_args()
    if not set(args.cores) <= os.sched_getaffinity(0) or len(set(args.cores)) < 2:
        sys.exit("bench-peers: two cores are needed, one for the client and one for the server; select them with --cores")
    become_subreaper()
    data = {"machine": machine(), "versions": [], "settings": {}, "commands": [], "runs": [], "realistic": [], "start_ups": [], "gen": [], "stats": [], "floor": []}
    data["missing"] = args.missing
    take_earlier(args.earlier, data)
    if args.rounds or args.solo_rounds or args.realistic_rounds:
        now = {
            "waves": args.waves, "slow_waves": args.slow_waves, "output_len": args.output_len, "input_len": INPUT_LEN,
            "client_core": args.cores[0], "server_core": args.cores[1], "limit": LIMIT, "least_requests": MIN_REQUESTS, "open_seconds": args.open_seconds,
            "tokenizer": tokenizer_in_words(),
        }  # fmt: skip
        if data["settings"] and any(data["settings"].get(key) != value for key, value in now.items()):
            sys.exit("bench-peers: --with names runs with other waves, --output-len or --cores")
        data["settings"].update(now)
        with tempfile.TemporaryDirectory(prefix="vb-peers-") as folder:
            bench = Bench(args, pathlib.Path(folder))
            clients = make_clients(args, bench.tools)
            data["versions"] = list(dict.fromkeys([*data["versions"], *(client.version() for client in clients)]))
            date = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"
            data["commands"].append(f"`{command_typed()}`, at revision {revision()}, {date}")
            measure_all(args, bench, clients, data)
            if args.gen or args.stats:
                measure_tools(args, bench, data)
    save(args, data)
    args.out.write_text(report(data) + measured_otherwise(args.out))
    say(f"wrote {args.out}")
    lost = sum(run.get("lost", 1) for run in data["runs"] + data["realistic"] + data["start_ups"] if run["client"].startswith("vb-fire"))
    if lost:
        sys.exit(f"bench-peers: vb-fire lost {lost} requests")


main()
