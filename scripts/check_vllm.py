"""The checks of scripts/check-vllm.sh: compares the numbers of our programs with the numbers of a real vLLM.

check_vllm.py model TOKENIZER_JSON FOLDER    writes a tiny Llama with random weights for a tokenizer, and two adapters
                                             for it, FOLDER-one and FOLDER-two
check_vllm.py ready URL PID                  waits until the server is ready, or its process has ended
check_vllm.py check URL POOLING BIN MODEL    runs the checks against a generating and a pooling server with the model in
                                             the folder MODEL, and prints a table; exit 1 if a check fails

Needs only the standard library.
"""

import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = "tiny"
MAX_LEN = 8192


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def make_model(tokenizer, folder, template=TEMPLATE):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    vocabulary = json.loads(pathlib.Path(tokenizer).read_text())["model"]["vocab"]
    size = (len(vocabulary) + 63) // 64 * 64
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 32, "hidden_act": "silu", "max_position_embeddings": MAX_LEN, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_LEN, "chat_template": template}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))


def make_adapter(folder, seed):
    """Writes a LoRA of rank 4 with random weights in the format of PEFT and safetensors: a JSON header, then the numbers."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    header, data = {}, b""
    for layer in range(2):
        for module, size in [("q_proj", 128), ("v_proj", 64)]:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            for part, shape in [("lora_A", [4, 128]), ("lora_B", [size, 4])]:
                numbers = [draw.gauss(0, 0.5) for _ in range(shape[0] * shape[1])]
                start = len(data)
                data += struct.pack(f"<{len(numbers)}f", *numbers)
                header[f"{name}.{part}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": MODEL,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def wait_ready(url, pid):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(f"{url}/health", timeout=5).status == 200:
                return
        except OSError:
            pass
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            sys.exit("vLLM ended before it was ready")
        time.sleep(1)
    sys.exit("vLLM was not ready within ten minutes")


class Checks:
    """Runs the programs and collects one row per check."""

    def __init__(self, url, bin_folder, model_folder):
        self.url, self.bin, self.model_folder = url, pathlib.Path(bin_folder), model_folder
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vb-check-"))
        self.rows = []

    def row(self, name, passed, seen):
        self.rows.append((name, passed, seen))
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {seen}", flush=True)

    def tool(self, name, *args, stdin=b"", codes=(0,)):
        done = subprocess.run([self.bin / name, *map(str, args)], input=stdin, capture_output=True, timeout=900)
        if done.returncode not in codes:
            sys.exit(f"{name} {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr.decode()}")
        return done

    def metrics(self):
        """vLLM's counters by name, summed over labels."""
        # The engine updates the page with its next step, so a finished request may be missing for a moment.
        time.sleep(0.5)
        page = urllib.request.urlopen(f"{self.url}/metrics", timeout=10).read().decode()
        values = {}
        for name, value in re.findall(r"^(vllm:[a-z0-9_]+)(?:\{.*\})? ([0-9.e+-]+)$", page, re.M):
            values[name] = values.get(name, 0.0) + float(value)
        return values

    def run(self, gen, fire):
        """Runs vb-gen | vb-fire. Also returns the increase of the server's counters."""
        before = self.metrics()
        base = ["--base-url", self.url, "--model", MODEL]
        requests = self.tool("vb-gen", *gen).stdout
        outputs = self.tool("vb-fire", *base, *fire, stdin=requests).stdout
        after = self.metrics()
        gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
        lines = [json.loads(line) for line in outputs.splitlines()]
        asked = {r["request_id"]: r for r in map(json.loads, requests.splitlines())}
        return asked, [line for line in lines if line["type"] == "output"], outputs, gained

    def workload(self, name, gen, fire, count):
        asked, outputs, raw, gained = self.run(["--num-prompts", count, *gen], fire)
        good = [o for o in outputs if o["success"]]
        self.row(f"{name}: every request succeeds", len(good) == count == len(outputs), f"{len(good)} of {count}")
        wrong = [o for o in good if o["prompt_len"] != asked[o["request_id"]]["prompt_len"]]
        lengths = sorted({o["prompt_len"] for o in good})
        self.row(
            f"{name}: prompt lengths as the server counts them",
            not wrong and len(good) == count,
            f"{len(wrong)} mismatches in {len(good)}, {lengths[0]} to {lengths[-1]} tokens",
        )
        short = [o for o in good if o["output_tokens"] != o["expected_output_len"]]
        self.row(f"{name}: output lengths as requested", not short, f"{len(short)} mismatches in {len(good)}")
        for what, ours, counter in [
            ("requests", len(good), "vllm:request_success_total"),
            ("prompt tokens", sum(o["prompt_len"] for o in good), "vllm:prompt_tokens_total"),
            ("output tokens", sum(o["output_tokens"] for o in good), "vllm:generation_tokens_total"),
        ]:
            theirs = gained[counter]
            self.row(f"{name}: {what} equal the server's counter", ours == theirs, f"{ours} and {theirs:.0f}")
        self.times(name, good, gained)
        return good, raw

    def times(self, name, good, gained):
        """Our means are not earlier than the server's, and later by at most the delay between server and client."""
        tokens = sum(o["output_tokens"] - 1 for o in good)
        ours_itl = sum(o["latency"] - o["ttft"] for o in good) / tokens
        theirs_itl = gained["vllm:inter_token_latency_seconds_sum"] / gained["vllm:inter_token_latency_seconds_count"]
        ours_ttft = sum(o["ttft"] for o in good) / len(good)
        theirs_ttft = gained["vllm:time_to_first_token_seconds_sum"] / gained["vllm:time_to_first_token_seconds_count"]
        lag = max(o["queue_time"] for o in good)
        # HTTP parsing and the path between vLLM's processes, on a machine where client and server share two cores,
        # plus the client's own lag.
        bound = 0.020 + lag
        self.row(
            f"{name}: mean TTFT within the client's lag of the server's",
            -0.002 < ours_ttft - theirs_ttft < bound,
            f"{ours_ttft * 1e3:.2f} and {theirs_ttft * 1e3:.2f} ms (allowed {bound * 1e3:.0f} ms more)",
        )
        self.row(
            f"{name}: mean ITL within the client's lag of the server's",
            abs(ours_itl - theirs_itl) < max(0.001, 0.05 * theirs_itl),
            f"{ours_itl * 1e3:.3f} and {theirs_itl * 1e3:.3f} ms",
        )

    def all(self):
        random = ["--dataset-name", "random", "--input-len", 200, "--range-ratio", 0.9, "--output-len", 16]
        loop = ["--max-concurrency", 4]
        builtin = ["--tokenizer", "builtin"]
        self.workload("completions, text", [*random, *builtin], loop, 200)
        _, raw = self.workload("completions, ids", [*random, *builtin, "--prompt-token-ids", "--seed", 1], loop, 200)
        chat = [*random, "--backend", "openai-chat", "--seed", 2]
        self.workload("chat", [*chat, "--tokenizer", self.model_folder], [*loop, "--backend", "openai-chat"], 200)
        served = ["--tokenizer", "server", "--base-url", self.url, "--model", MODEL, "--seed", 3]
        self.workload("completions, the server's tokenizer", [*random, *served], loop, 20)
        poisson = ["--request-rate", 20, "--max-concurrency", 16, "--num-warmups", 0]
        self.workload("completions, 20 requests per second", [*random, *builtin, "--seed", 4], poisson, 60)
        self.token_ids()
        self.scraped()
        self.whole_and_in_parts()
        self.errors()
        self.flags()
        self.sweep()

    def token_ids(self):
        """The number of token ids in the chunks must equal the usage: chunks are not tokens."""
        gen = ["--num-prompts", 20, "--input-len", 50, "--output-len", 64, "--seed", 5]
        _, outputs, _, _ = self.run(gen, ["--max-concurrency", 4, "--extra-body", '{"return_token_ids":true}'])
        good = [o for o in outputs if o["success"]]
        ours = sum(sum(o.get("chunk_tokens", [1] * (len(o["itl"]) + 1))) for o in good)
        usage = sum(o["output_tokens"] for o in good)
        self.row("token ids in the chunks add up to usage", len(good) == 20 and ours == usage, f"{ours} and {usage}")

    def scraped(self):
        """--scrape: the server's metrics are reported unchanged and agree with ours."""
        gen = ["--num-prompts", 100, "--input-len", 200, "--output-len", 16, "--seed", 6]
        scrape = ["--max-concurrency", 4, "--num-warmups", 4, "--scrape", "--scrape-interval", "200ms"]
        _, outputs, raw, _ = self.run(gen, scrape)
        result, stderr = self.result(raw)
        server = result["vb"]["server"]
        pairs = [
            ("requests", result["completed"], sum(server["finished"].values())),
            ("first tokens", result["completed"], server["ttft_ms"]["n"]),
            ("prompt tokens", result["total_input_tokens"], server["prompt_tokens"]),
            ("output tokens", result["total_output_tokens"], server["generation_tokens"]),
            ("gaps", sum(o["output_tokens"] - 1 for o in outputs), server["itl_ms"]["n"]),
        ]
        for what, ours, theirs in pairs:
            self.row(f"--scrape: {what}, warm-ups left out", ours == theirs, f"{ours} and {theirs}")
        last = [json.loads(line) for line in raw.splitlines() if b'"scrape"' in line[:20]][-1]["metrics"]
        page = self.metrics()
        summed = {}
        for key, value in last.items():
            name = key.split("{")[0]
            summed[name] = summed.get(name, 0.0) + value
        wrong = [name for name, value in summed.items() if name in page and abs(page[name] - value) > 1e-9 * abs(value)]
        shown = f"{len(summed)} families, {len(wrong)} differ {wrong[:3]}"
        self.row("--scrape: the last page is the server's", len(summed) > 30 and not wrong, shown)
        for name, parts in server["reconciled"].items():
            ms = {part: value for part, value in parts.items() if value is not None}
            # A gap has no parts other than the server's own time.
            not_parts = ("client", "server") if "frontend" in ms else ("client",)
            rest = ms["client"] - sum(value for part, value in ms.items() if part not in not_parts)
            # vLLM's two processes share a clock, so its frontend cannot be early.
            sane = abs(rest) < 1e-6 and ms.get("frontend", 0) > -0.1 and -1 < ms["outside"] < 50
            self.row(f"--scrape: {name} adds up", sane, " ".join(f"{part} {value:.2f}" for part, value in ms.items()))
        counts = [note for note in server.get("notes", []) if "outside of the server" not in note]
        cold = result["vb"]["cache"]
        fits = not counts and cold.get("note") is None and cold["cached_share"] == 0
        self.row("--scrape: a single run on a cold cache is consistent", fits, f"{counts} {cold}")
        _, _, raw, _ = self.run(gen, scrape)
        result, stderr = self.result(raw)
        note = result["vb"]["cache"].get("note", "")
        self.row("--scrape: a repeated seed is reported as a warm cache", "another --seed" in note and note in stderr, note)
        self.other_load()

    def whole_and_in_parts(self):
        """A longer closed loop: its steady state, its percentiles in parts and pooled, and vb-diff with itself."""
        gen = ["--num-prompts", 300, "--input-len", 64, "--output-len", 24, "--range-ratio", 0.5, "--seed", 8]
        _, _, raw, _ = self.run(gen, ["--max-concurrency", 8, "--num-warmups", 8])
        whole = self.result(raw)[0]
        steady = whole["vb"]["steady"]
        little = steady["little"]
        # A busy CPU may drift; an invalid window or a violation of Little's law is an error.
        seen = f"{steady['verdict']}: {steady['why']}; L {little['concurrency']:.2f}, gap {little['gap']:+.3f}"
        sane = steady["verdict"] != "too_short" and abs(little["gap"]) < 0.1 and little["concurrency"] <= 8
        self.row("steady state of a closed loop, and Little's law", sane, seen)
        keys = [k for k in whole if k.startswith("p") and k.endswith("_ms")]
        off = lambda result: max(abs(result[k] / whole[k] - 1) for k in keys)
        parts = json.loads(self.tool("vb-stats", "--exact", "2k", stdin=raw).stdout)
        same = parts["completed"] == whole["completed"] and off(parts) < 0.0005
        self.row("a run in parts has the same percentiles", same, f"{len(keys)} percentiles, off by {off(parts):.6f}")
        lines = raw.splitlines(keepends=True)
        halves = [b"".join(lines[: len(lines) // 2]), b"".join(lines[len(lines) // 2 :])]
        results = [self.tool("vb-stats", "--histograms", stdin=half).stdout for half in halves]
        pooled = json.loads(self.tool("vb-agg", "--pool", stdin=b"".join(results)).stdout)
        same = pooled["completed"] == whole["completed"] and off(pooled) < 0.0005
        self.row("two halves pooled have the same percentiles", same, f"{len(keys)} percentiles, off by {off(pooled):.6f}")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "run.ndjson"
            path.write_bytes(raw)
            report = json.loads(self.tool("vb-diff", path, path, "--format", "json").stdout)
        verdicts = {row["verdict"] for row in report["changes"]}
        self.row("vb-diff finds no difference of a run from itself", not verdicts & {"better", "worse"}, sorted(verdicts))

    def other_load(self):
        base = [self.bin / "vb-fire", "--base-url", self.url, "--model", MODEL, "--max-concurrency", "1"]
        ours = subprocess.Popen([*base, "--scrape"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = b'{"prompt":"hi","expected_output_len":4,"body":{"ignore_eos":true}}\n'
        ours.stdin.write(line)
        ours.stdin.flush()
        read = b""
        while b'"output"' not in read:
            read += ours.stdout.readline()
        subprocess.run(base, input=line * 5, capture_output=True, timeout=60, check=True)
        raw = read + ours.communicate(timeout=60)[0]
        notes = self.result(raw)[0]["vb"]["server"].get("notes", [])
        self.row("--scrape: load from other clients is reported", any("finished 6 requests and the clients here sent 1" in n for n in notes), notes[:1])

    def result(self, raw):
        done = self.tool("vb-stats", stdin=raw)
        return json.loads(done.stdout), done.stderr.decode()

    def errors(self):
        long = json.dumps({"prompt": [5] * (MAX_LEN + 1000), "expected_output_len": 4}).encode()
        for name, stdin, extra, want in [
            ("an over-long prompt", long, [], f"maximum context length is {MAX_LEN}"),
            ("an unknown model", b'{"prompt":"hi"}', ["--model", "nope"], "does not exist"),
            ("max_tokens beyond the model's length", b'{"prompt":"hi","expected_output_len":50000}', [], "max_tokens"),
            ("a wrong path", b'{"prompt":"hi"}', ["--endpoint", "/v1/nothing"], "Not Found"),
        ]:
            base = ["--base-url", self.url, "--model", MODEL, *extra]
            base = base[:2] + base[4:] if "--model" in extra else base
            done = self.tool("vb-fire", *base, stdin=stdin, codes=(1,))
            output = json.loads(done.stdout.splitlines()[1])
            reported = want in output["error"] and want in done.stderr.decode()
            self.row(f"{name}: http_status with the server's message", output["error_kind"] == "http_status" and reported, output["error"][:90])

    def flags(self):
        """The table of `docs/FROM-VLLM-BENCH.md` has the flags that this version prints."""
        listed = (ROOT / "tests/data/vllm-bench-serve-flags.txt").read_text().split("# ")[1].splitlines()[1:]
        done = subprocess.run(["vllm", "bench", "serve", "--help=all"], capture_output=True, timeout=600, text=True)
        spellings = re.findall(r"^  (?:-h, )?(--[a-z0-9-]+(?:, --[a-z0-9-]+)*)", done.stdout, re.MULTILINE)
        printed = {name.removeprefix("--") for flag in spellings for name in flag.split(", ")} - {"help"}
        unknown = sorted(printed - set(listed))
        self.row("every flag of `vllm bench serve` is in docs/FROM-VLLM-BENCH.md", len(printed) > 100 and not unknown, f"{len(printed)} flags, unknown: {unknown}")

    def sweep(self):
        """Runs the default sweep against this server instead of the simulated one. vLLM's plots read its folder."""
        config = (ROOT / "config.yaml").read_text().replace("base_url: sim", f"base_url: {self.url}")
        path = self.folder / "config.yaml"
        path.write_text(config)
        env = dict(os.environ, VB_BIN=str(self.bin))
        done = subprocess.run(
            [ROOT / "scripts/sweep.sh", path, "--results", self.folder / "results"],
            capture_output=True, timeout=1800, text=True, env=env,
        )
        tables = list((self.folder / "results").glob("*/aggregate_results_*.csv"))
        rows = tables[0].read_text().splitlines()[1:] if tables else []
        cells = list((self.folder / "results").glob("*/bench_*.json"))
        failed = sum(json.loads(cell.read_text())["failed"] for cell in cells)
        whole = done.returncode == 0 and len(rows) == len(cells) == 6 and failed == 0
        self.row("the default sweep runs to its end", whole, f"exit {done.returncode}, {len(cells)} cells, {failed} failed requests")
        if not whole:
            print(done.stderr[-2000:])
        for plot, args in [
            ("plot", ["--var-x", "max_concurrency", "--curve-by", "input_len", "--filter-by", "failed==0"]),
            ("plot_pareto", []),
        ]:
            done = subprocess.run(
                ["vllm", "bench", "sweep", plot, str(self.folder / "results"), *args], capture_output=True, timeout=600, text=True
            )
            drawn = [p.name for p in (self.folder / "results").rglob("*.png")]
            words = done.stderr.strip().splitlines()[-1:] if done.returncode else ""
            self.row(f"vLLM's `bench sweep {plot}` draws the sweep", done.returncode == 0 and bool(drawn), f"{drawn} {words}")
            for picture in (self.folder / "results").rglob("*.png"):
                picture.unlink()


def main():
    command, *args = sys.argv[1:]
    if command == "model":
        make_model(*args)
        for name, seed in [("one", 1), ("two", 2)]:
            make_adapter(f"{args[1]}-{name}", seed)
    elif command == "ready":
        wait_ready(*args)
    else:
        # That module imports this one, so it must be imported late.
        from check_vllm_apis import ApiChecks, PoolingChecks

        url, pooling, *rest = args
        rows = []
        for kind, server in [(Checks, url), (ApiChecks, url), (PoolingChecks, pooling)]:
            checks = kind(server, *rest)
            checks.all()
            shutil.rmtree(checks.folder)
            rows += checks.rows
        bad = [name for name, passed, _ in rows if not passed]
        print(f"\n{len(rows) - len(bad)} passed, {len(bad)} failed")
        sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
