"""The checks of scripts/check-servers.sh: vb-fire against real servers and proxies, compared with a small client.

check_servers.py INSTALLED BIN [NAME...]    INSTALLED is the folder of scripts/install-servers.sh, BIN has our programs;
                                            NAMEs select servers. Prints a table; exit 1 if a check fails

VB_RECORD=FOLDER writes a request and its response for every API there, as in tests/data/servers. Needs only the standard
library.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts/servers"))

import check_vllm  # noqa: E402
import client  # noqa: E402
from launch import KEY, MODEL, Fleet, Started  # noqa: E402

CHATS = ["openai-chat", "openai-responses", "anthropic"]
OPENAI = ["openai", *CHATS]
# vb-sim's template, so that one model folder counts for all servers.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{{ '' if m['content'][:1] == ' ' else ' ' }}{{ m['content'] }}\n{% endfor %}assistant:"
)
POOLING = ["openai-embeddings", "vllm-rerank"]
COUNT, LENGTH = 6, 20


@dataclasses.dataclass
class Answers:
    """Every request succeeds, with the counts that the client sees. `note` must be on standard error."""

    args: tuple = ()
    count: int = COUNT
    model: str | None = MODEL
    # What a server without counts is asked for, as far as vb-fire can know it.
    length: int = LENGTH
    note: str = ""


@dataclasses.dataclass
class Fails:
    """vb-fire reports the server's words, once and without markup. With `some`, other requests may succeed."""

    words: str
    args: tuple = ()
    model: str = MODEL
    kinds: tuple = ("http_status",)
    prompt: str = "hi"
    count: int = 1
    some: bool = False


@dataclasses.dataclass
class Server:
    """A server, and what is expected of it: by default that it answers, and where it refuses, with which words."""

    name: str
    start: Callable[[Fleet], Started]
    apis: list
    key: str | None = None
    # Whether responses have counts; without, only texts are compared.
    counts: bool = True
    # The response to a model that it does not have, and to a prompt that is too long. None: it answers.
    no_model: str | None = None
    too_long: str | None = None
    no_key: str | None = None
    # The prefix of its metrics, and its counters of requests, prompt tokens and output tokens.
    prefix: str = ""
    counters: dict = dataclasses.field(default_factory=dict)
    template: pathlib.Path | None = None
    # Cases that only this server has.
    more: tuple = ()
    # Where the client asks, if not at the same URL.
    client_url: str = ""
    url: str = ""
    metrics: str = ""

    def cases(self, api):
        """Name and expectation of every case for an API."""
        if api in POOLING:
            return [("whole", Answers())]
        # Longer than any of these servers takes.
        long = Fails(self.too_long, prompt=" a" * 40_000, kinds=("http_status", "stream_error")) if self.too_long else None
        unknown = "no-such-model"
        return [
            ("stream", Answers()),
            ("whole", Answers(("--no-stream",), length=LENGTH if self.counts else 0)),
            ("portable", Answers(("--transport", "portable"))),
            ("new connections", Answers(("--no-keep-alive",))),
            ("closed loop", Answers(("--max-concurrency", "1"), count=20)),
            ("unknown model", Fails(self.no_model, model=unknown) if self.no_model else Answers(model=unknown)),
            ("listed model", Answers(("--ready-check", "60s"), model=None)),
            *self.more,
            *([("too long", long), ("too long, whole", dataclasses.replace(long, args=("--no-stream",)))] if long else []),
            *([("missing key", Fails(self.no_key))] if self.no_key else []),
        ]


class Checks:
    """Runs the programs and collects one row per check."""

    def __init__(self, bin_folder, model_folder):
        self.bin, self.model_folder = pathlib.Path(bin_folder), model_folder
        self.record = os.environ.get("VB_RECORD")
        self.rows = []

    def row(self, server, api, case, problems, seen):
        self.rows.append((server, api, case, not problems))
        print(f"{'FAIL' if problems else 'ok  '} {server} {api}, {case}: {'; '.join([*problems, seen])}", flush=True)

    def tool(self, name, *args, stdin=b"", env=None):
        argv = [self.bin / name, *map(str, args)]
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=120, env=env)

    def requests(self, api, count, *extra):
        """Lines of vb-gen for an API, and the requests in them."""
        lengths = ["--input-len", 24] + (["--output-len", LENGTH] if api not in POOLING else [])
        kind = ["--dataset-name", "random-rerank", "--random-batch-size", 2, "--no-reranker"] if api == "vllm-rerank" else []
        backend = "openai" if api == "template" else api
        args = ["--backend", backend, "--tokenizer", self.model_folder, "--num-prompts", count, "--seed", 7, *lengths, *kind, *extra]
        done = self.tool("vb-gen", *args)
        if done.returncode:
            raise RuntimeError(f"vb-gen: {done.stderr.decode()}")
        return done.stdout, [json.loads(line) for line in done.stdout.splitlines()]

    def fire(self, server, api, stdin, *args, model=MODEL, key=True):
        """Runs vb-fire; returns its status, its outputs by id, standard error, and all of standard output."""
        env = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
        if server.key and key:
            env["OPENAI_API_KEY"] = server.key
        args = [*args, *(["--template", server.template] if api == "template" else []), *(["--model", model] if model else [])]
        if "--max-concurrency" not in args:
            args += ["--max-concurrency", 2]
        done = self.tool("vb-fire", "--base-url", server.url, "--backend", api, *args, stdin=stdin, env=env)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        outputs = {record["request_id"]: record for record in records if record["type"] == "output"}
        return done.returncode, outputs, done.stderr.decode(), done.stdout

    def answers(self, server, api, case, expected):
        """Every request succeeds, and counts and texts are those that the client sees."""
        lines, asked = self.requests(api, expected.count)
        status, outputs, errors, raw = self.fire(server, api, lines, *expected.args, model=expected.model)
        good = [output for output in outputs.values() if output["success"]]
        problems = [] if status == 0 and len(good) == len(asked) else [f"exit {status}: {errors.strip()[-300:]}"]
        if expected.note not in errors:
            problems.append(f"no `{expected.note}` in {errors.strip()[-300:]!r}")
        # The other servers generate faster than they send.
        if "holds chunks back" in errors and not expected.note and server.name == "nginx":
            problems.append(f"a false alarm: {errors.strip()[-300:]!r}")
        sums = collections.Counter()
        stream = "--no-stream" not in expected.args and api not in POOLING
        for request in asked:
            output = outputs.get(request["request_id"])
            if output is None or not output["success"]:
                continue
            seen = self.ask(server, api, request, stream, record=case if request is asked[0] else None)
            pairs = [("prompt_len", seen.prompt if server.counts else request["prompt_len"])]
            if request.get("expected_output_len"):
                pairs += [("output_tokens", seen.output if server.counts else expected.length)]
                chunks = len(output["itl"]) + 1 if output["ttft"] is not None else 0
                # A response without text has only its end.
                if stream and chunks != max(seen.chunks, 1):
                    problems.append(f"{chunks} chunks, the client sees {seen.chunks}")
                problems += ["no text"] if seen.text and not output["generated_text"] else []
            problems += [f"{key} {output[key]}, the client sees {value}" for key, value in pairs if output[key] != value]
            # Rerankers put tokens between query and document.
            if output["prompt_len"] != request["prompt_len"] and api != "vllm-rerank":
                problems.append(f"{request['prompt_len']} prompt tokens asked, {output['prompt_len']} sent")
            sums.update(prompt=seen.prompt or 0, output=seen.output or 0)
        problems += self.statistics(raw, good, sums if server.counts else None)
        sources = {output["token_source"] for output in good}
        self.row(server.name, api, case, sorted(set(problems))[:4], f"{len(good)} of {len(asked)}, tokens {dict(sums)} by {sources}")

    def ask(self, server, api, request, stream, record=None):
        answer = client.send(server.client_url or server.url, api, request, MODEL, stream, server.key)
        if answer.status != 200:
            raise RuntimeError(f"the client got {answer.status}: {answer.body[:200]!r}")
        if record in ("stream", "whole") and self.record:
            name = f"{server.name}-{api.removeprefix('openai-')}{'' if stream else '-whole'}.txt"
            (pathlib.Path(self.record) / name).write_bytes(answer.capture)
        return answer

    def statistics(self, raw, good, sums):
        """What vb-stats makes of it."""
        if not good:
            return []
        done = self.tool("vb-stats", stdin=raw)
        if done.returncode:
            return [f"vb-stats: exit {done.returncode}: {done.stderr.decode()[-200:]}"]
        result = json.loads(done.stdout)
        pairs = [("completed", len(good))]
        if sums:
            pairs += [("total_input_tokens", sums["prompt"]), ("total_output_tokens", sums["output"])]
        return [f"vb-stats: {key} {result[key]}, not {value}" for key, value in pairs if result[key] != value]

    def fails(self, server, api, case, expected):
        """The failure has the server's words, in the output and on standard error."""
        line = {"prompt": expected.prompt, "expected_output_len": LENGTH}
        lines = "".join(json.dumps(line | {"request_id": f"r{i}"}) + "\n" for i in range(expected.count)).encode()
        status, outputs, errors, _ = self.fire(
            server, api, lines, *expected.args, model=expected.model, key=case != "missing key"
        )
        bad = [output for output in outputs.values() if not output["success"]]
        problems = [] if status == 1 and bad and (expected.some or len(bad) == expected.count) else [f"exit {status}, {len(bad)} failed"]
        for output in bad:
            problems += [] if output["error_kind"] in expected.kinds else [f"{output['error_kind']}, not {expected.kinds}"]
            times = output["error"].count(expected.words)
            problems += [] if times == 1 else [f"`{expected.words}` is {times} times in the record"]
            problems += [f"markup in {output['error']!r}"] if re.search(r"<\w+>|\x1b", output["error"]) else []
        problems += [] if expected.words in errors else ["standard error lacks them"]
        problems += ["a key is shown"] if server.key and server.key in errors + json.dumps(outputs) else []
        self.row(server.name, api, case, sorted(set(problems))[:4], errors.strip()[-400:])

    def conversation(self, server, api):
        """Real responses become part of the next prompt, whose length the server counts as for the client."""
        lines, asked = self.requests(api, 6, "--dataset-name", "multi-turn", "--num-turns", 3)
        _, outputs, errors, _ = self.fire(server, api, lines)
        good = {key: output for key, output in outputs.items() if output["success"]}
        problems = [] if len(good) == len(asked) else [errors.strip()[-300:]]
        replies, lengths = collections.defaultdict(list), []
        for request in asked:
            output = good.get(request["request_id"])
            if output is None:
                continue
            responses = iter(replies[request["session_id"]])
            messages = [message if message["content"] is not None else message | {"content": next(responses)} for message in request["messages"]]
            replies[request["session_id"]].append(output["generated_text"])
            seen = self.ask(server, api, request | {"messages": messages}, False)
            lengths.append(output["prompt_len"])
            if output["prompt_len"] != seen.prompt:
                problems.append(f"a turn's prompt has {output['prompt_len']} tokens, the client's {seen.prompt}")
        self.row(server.name, api, "conversation", problems[:4], f"{len(good)} of {len(asked)} turns, prompts {lengths}")

    def scrape(self, server, api):
        """The server's counters count what our outputs do, and without --scrape-match the prefix of its metrics is named."""
        lines, _ = self.requests(api, COUNT)
        page = ["--scrape", server.metrics]
        status, outputs, errors, raw = self.fire(server, api, lines, *page, "--scrape-match", server.prefix)
        pages = [record for record in map(json.loads, raw.splitlines()) if record["type"] == "scrape"]
        problems = [] if status == 0 and pages and not pages[0]["error"] else [f"exit {status}: {errors[-300:]}"]
        ours = {
            "requests": len(outputs), "prompt": sum(output["prompt_len"] for output in outputs.values()),
            "output": sum(output["output_tokens"] for output in outputs.values()),
        }
        seen = {}
        for what, names in server.counters.items():
            totals = [sum(v for k, v in page["metrics"].items() if re.split("[{]", k)[0] in names) for page in pages]
            seen[what] = totals[-1] - totals[0] if totals else None
            problems += [] if seen[what] == ours[what] else [f"{what}: {ours[what]}, the server counts {seen[what]}"]
        status, _, errors, _ = self.fire(server, api, lines, *page)
        problems += [] if status == 0 and server.prefix in errors else [f"`{server.prefix}` is not named: {errors.strip()[-300:]}"]
        self.row(server.name, api, "scrape", problems[:4], f"counters {seen}")

    def all(self, server):
        for api in server.apis:
            for case, expected in server.cases(api):
                self.guard(server, api, case, expected)
            if api in CHATS:
                self.guard(server, api, "conversation", None)
        if server.prefix:
            self.guard(server, server.apis[0], "scrape", None)

    def guard(self, server, api, case, expected):
        """Runs a case; what keeps it from running is a failure of this case alone."""
        try:
            if case == "conversation":
                self.conversation(server, api)
            elif case == "scrape":
                self.scrape(server, api)
            elif isinstance(expected, Answers):
                self.answers(server, api, case, expected)
            else:
                self.fails(server, api, case, expected)
        except (RuntimeError, OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            self.row(server.name, api, case, [f"{type(error).__name__}: {error}"], "the check itself failed")


# nginx in front of vb-sim: name, what follows the port in `listen`, directives of the location, what is expected.
SECURE = ("--insecure",)
PORTABLE = ("--transport", "portable")
# With its defaults, nginx asks for the response in HTTP/1.0, and passes it on in parts of 4 KiB. With TLS it collects 16 KiB.
PASS = 'proxy_http_version 1.1; proxy_set_header Connection "";'
GZIP = "gzip on; gzip_min_length 1; gzip_proxied any; gzip_types text/event-stream application/json;"
FIVE = f"{PASS} keepalive_requests 5;"
IDLE = ("--max-concurrency", "1", "--think-time", "150ms")
NGINX = [
    ("plain", "", PASS, Answers()),
    ("TLS", "ssl", f"{PASS} proxy_buffering off;", Answers(SECURE)),
    ("TLS, buffering", "ssl", PASS, Answers(SECURE, note="proxy_buffering off")),
    ("HTTP/2 over TLS", "ssl http2", PASS, Answers((*SECURE, *PORTABLE))),
    ("HTTP/2, 5 requests a connection", "ssl http2", FIVE, Answers((*SECURE, *PORTABLE), count=40)),
    ("HTTP/2 only", "http2", PASS, Fails("--transport portable", kinds=("protocol",))),
    ("buffering", "", "", Answers(note="proxy_buffering off")),
    ("gzip", "", f"{PASS} {GZIP}", Answers()),
    ("gzip asked for", "", f"{PASS} {GZIP}", Fails("gzip", ("--header", "Accept-Encoding=gzip"), kinds=("protocol",))),
    ("5 requests a connection", "", FIVE, Answers(count=40)),
    ("5 requests a connection, portable", "", FIVE, Answers(PORTABLE, count=40)),
    ("idle connections closed", "", f"{PASS} keepalive_timeout 50ms;", Answers(IDLE)),
    ("idle connections closed, portable", "", f"{PASS} keepalive_timeout 50ms;", Answers((*PORTABLE, *IDLE))),
    ("ended by the close", "", f"{PASS} chunked_transfer_encoding off;", Answers()),
    ("trailers", "", f"{PASS} add_trailer X-Checksum 7;", Answers()),
    ("large headers", "", f"{PASS} add_header Set-Cookie {'c' * 3000};", Answers()),
    ("upstream silent", "", f"{PASS} proxy_read_timeout 300ms;",
     Fails("in the middle of the response", ("--extra-body", '{"vb_fault":"stall@5"}'), kinds=("truncated",))),
    ("429", "", f"{PASS} limit_req zone=slow; limit_req_status 429;", Fails("Too Many Requests", count=5, some=True)),
    ("301", "", "return 301 https://example.invalid/moved;", Fails("https://example.invalid/moved")),
    ("401", "", "return 401;", Fails("HTTP 401")),
    ("413", "", "client_max_body_size 1k;", Fails("HTTP 413", prompt="a" * 2_000)),
    ("413 for 8 MB", "", "client_max_body_size 1k;", Fails("HTTP 413", prompt="a" * 8_000_000)),
    ("502", "", "return 502;", Fails("Bad Gateway")),
]


SERVERS = [
    Server(
        "litellm", lambda fleet: fleet.litellm(), OPENAI, key=KEY,
        no_model="no-such-model", too_long="exceeds the available context size", no_key="500 Internal Server Error",
    ),
    Server(
        "dynamo", lambda fleet: fleet.dynamo(), OPENAI, no_model="not found", too_long="Internal", prefix="dynamo_",
        counters={
            "requests": {"dynamo_frontend_requests_total"}, "prompt": {"dynamo_frontend_input_sequence_tokens_sum"},
            "output": {"dynamo_frontend_output_sequence_tokens_sum"},
        },
    ),
    Server(
        "llama", lambda fleet: fleet.llama("llama", "--api-key", KEY), [*OPENAI, "template"], key=KEY,
        too_long="exceeds the available context size", no_key="Invalid API Key",
        template=ROOT / "scripts/servers/llama.yaml", prefix="llamacpp:",
        counters={
            "prompt": {"llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"},
            "output": {"llamacpp:tokens_predicted_total"},
        },
    ),
    Server("llama-embed", lambda fleet: fleet.llama("llama-embed", "--embeddings", "--pooling", "mean"), ["openai-embeddings"]),
    Server("llama-rerank", lambda fleet: fleet.llama("llama-rerank", "--reranking"), ["vllm-rerank"]),
    Server(
        "triton", lambda fleet: fleet.triton(), ["tensorrt-llm"], counts=False, too_long="exceeds maximum input length",
        more=(("whole, counted", Answers(("--no-stream", "--extra-body", '{"return_num_output_tokens":true}'))),),
        prefix="nv_", counters={"requests": {"nv_inference_request_success"}},
    ),
    Server(
        "router", lambda fleet: fleet.router(), OPENAI, no_model="no-such-model", too_long="maximum context length",
        prefix="vllm_",
    ),
]


def check_servers(fleet, checks, wanted):
    """Starts all servers at the same time, because some take half a minute, and checks one after the other."""
    started = []
    for server in SERVERS:
        if wanted and server.name not in wanted:
            continue
        try:
            started.append((server, server.start(fleet)))
        except (OSError, StopIteration, TimeoutError, subprocess.CalledProcessError) as error:
            checks.row(server.name, "", "starts", [f"{type(error).__name__}: {error}"], "")
    if not wanted or "nginx" in wanted:
        check_nginx(fleet, checks)
    for server, place in reversed(started):
        try:
            place.wait()
        except TimeoutError as error:
            checks.row(server.name, "", "starts", [str(error)], fleet.log_tail(server.name))
            continue
        server.url, server.metrics = place.url, place.metrics
        checks.all(server)


def check_nginx(fleet, checks):
    try:
        places = fleet.nginx({name: (listen, location) for name, listen, location, _ in NGINX})
    except (OSError, TimeoutError, subprocess.CalledProcessError) as error:
        checks.row("nginx", "", "starts", [f"{type(error).__name__}: {error}"], fleet.log_tail("nginx"))
        return
    for name, _, _, expected in NGINX:
        server = Server(
            "nginx", None, ["openai-chat"], url=places[name].url, client_url=places["plain"].url
        )
        checks.guard(server, "openai-chat", name, expected)


def print_table(rows):
    """A line per server and API, with the number of cases and those that failed."""
    table = collections.defaultdict(list)
    for server, api, case, passed in rows:
        table[server, api].append((case, passed))
    print(f"\n{'server':12} {'API':18} cases  failed")
    for (server, api), cases in table.items():
        bad = [case for case, passed in cases if not passed]
        print(f"{server:12} {api:18} {len(cases):5}  {', '.join(bad) or '-'}")
    failed = sum(not passed for *_, passed in rows)
    print(f"\n{len(rows) - failed} passed, {failed} failed")
    return failed


def main():
    installed, bin_folder, *wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="vb-servers-") as work:
        model = pathlib.Path(work) / "model"
        check_vllm.make_model(ROOT / "src/tokens/builtin.json", model, TEMPLATE)
        fleet = Fleet(installed, work, bin_folder, model)
        checks = Checks(bin_folder, model)
        # The servers end with this script.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            check_servers(fleet, checks, wanted)
        finally:
            fleet.stop()
        sys.exit(1 if print_table(checks.rows) else 0)


if __name__ == "__main__":
    main()
