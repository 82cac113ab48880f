"""The checks of scripts/check-vllm.sh for APIs and workloads; check_vllm.py runs them."""

import json
import urllib.request

from check_vllm import MODEL, ROOT, Checks

TOOL = {
    "type": "object", "properties": {"n": {"type": "string", "enum": ["one", "two"]}},
    "required": ["n"], "additionalProperties": False,
}


class ApiChecks(Checks):
    """Every API of vLLM, streaming and non-streaming, and workloads other than single prompts."""

    def all(self):
        self.generation("responses", "openai-responses", 20)
        self.generation("messages", "anthropic", 30)
        self.whole("completions", "openai", 40)
        self.whole("chat", "openai-chat", 41)
        self.whole("responses", "openai-responses", 42)
        self.whole("messages", "anthropic", 43)
        self.several_answers()
        self.tool_calls()
        self.adapters()
        self.conversations()
        self.trace()

    def gen(self, backend, seed, count=40):
        tokenizer = self.model_folder if backend != "openai" else "builtin"
        return ["--num-prompts", count, "--backend", backend, "--tokenizer", tokenizer, "--input-len", 100,
                "--range-ratio", 0.5, "--output-len", 12, "--seed", seed]

    def answered(self, name, count, asked, outputs, gained):
        """All requests succeed with the requested lengths, and the server counts the same tokens."""
        good = [o for o in outputs if o["success"]]
        errors = {o["error"] for o in outputs if not o["success"]}
        self.row(f"{name}: every request succeeds", len(good) == count == len(outputs), f"{len(good)} of {count} {list(errors)[:1] or ''}")
        wrong = [o for o in good if o["prompt_len"] != asked[o["request_id"]]["prompt_len"]]
        short = [o for o in good if o["output_tokens"] != o["expected_output_len"]]
        self.row(f"{name}: lengths as requested", not wrong and not short, f"{len(wrong)} prompts and {len(short)} outputs differ")
        ours = (sum(o["prompt_len"] for o in good), sum(o["output_tokens"] for o in good))
        theirs = (gained["vllm:prompt_tokens_total"], gained["vllm:generation_tokens_total"])
        self.row(f"{name}: tokens equal the server's counters", ours == theirs, f"{ours} and {tuple(map(int, theirs))}")
        return good

    def generation(self, name, backend, seed):
        asked, outputs, _, gained = self.run(self.gen(backend, seed), ["--backend", backend, "--max-concurrency", 4])
        good = self.answered(name, 40, asked, outputs, gained)
        self.times(name, good, gained)

    def whole(self, name, backend, seed):
        fire = ["--backend", backend, "--max-concurrency", 4, "--no-stream"]
        asked, outputs, raw, gained = self.run(self.gen(backend, seed), fire)
        good = self.answered(f"{name}, non-streaming", 40, asked, outputs, gained)
        unseen = all(o["ttft"] is None and o["itl"] == [] and o["tpot"] is None and o["latency"] > 0 for o in good)
        ours = sum(o["latency"] for o in good) / max(len(good), 1)
        theirs = gained["vllm:e2e_request_latency_seconds_sum"] / gained["vllm:e2e_request_latency_seconds_count"]
        near = -0.002 < ours - theirs < 0.05
        self.row(f"{name}, non-streaming: E2EL near the server's, and no TTFT", unseen and near, f"{ours * 1e3:.1f} and {theirs * 1e3:.1f} ms")
        result, _ = self.result(raw)
        self.row(f"{name}, non-streaming: vb-stats accepts it", result["completed"] == 40 and result["mean_e2el_ms"] > 0, f"{result['mean_e2el_ms']:.1f} ms")

    def several_answers(self):
        for backend in ["openai", "openai-chat"]:
            fire = ["--backend", backend, "--max-concurrency", 4, "--extra-body", '{"n":3,"logprobs":%s}' % ("1" if backend == "openai" else "true")]
            asked, outputs, _, gained = self.run(self.gen(backend, 50, 10), fire)
            tokens = sum(o["output_tokens"] for o in outputs if o["success"])
            fits = tokens == 10 * 3 * 12 == gained["vllm:generation_tokens_total"] or tokens == gained["vllm:generation_tokens_total"] > 0
            self.row(f"n=3 with logprobs, {backend}: all choices are counted", fits, f"{tokens} and {gained['vllm:generation_tokens_total']:.0f}")

    def tool_calls(self):
        function = {"name": "recite", "parameters": TOOL}
        body = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        line = {"messages": [{"role": "user", "content": "hi"}], "expected_output_len": 300, "body": body}
        stdin = "".join(json.dumps({**line, "request_id": f"tool-{i}"}) + "\n" for i in range(8)).encode()
        done = self.tool("vb-fire", "--base-url", self.url, "--model", MODEL, "--backend", "openai-chat", stdin=stdin, codes=(0, 1))
        outputs = [o for o in map(json.loads, done.stdout.splitlines()) if o["type"] == "output"]
        good = [o for o in outputs if o["success"] and o["output_tokens"] > 2 and len(o["itl"]) > 0]
        self.row("tool calls have tokens", len(good) == 8, f"{len(good)} of 8, {good[0]['finish_reason'] if good else outputs[0]['error']}")

    def adapters(self):
        gen = ["--num-prompts", 20, "--input-len", 50, "--output-len", 4, "--seed", 60]
        _, outputs, _, _ = self.run(gen, ["--max-concurrency", 2, "--lora-modules", "one", "two", "--lora-assignment", "round-robin"])
        good = [o for o in outputs if o["success"]]
        used = {}
        for o in good:
            used[o["tags"]["lora"]] = used.get(o["tags"]["lora"], 0) + 1
        page = urllib.request.urlopen(f"{self.url}/metrics", timeout=10).read().decode()
        seen = [name for name in ("one", "two") if f'running_lora_adapters="{name}"' in page or f"{name}," in page]
        self.row("LoRA: both adapters are used, and the server reports them", used == {"one": 10, "two": 10} and seen == ["one", "two"], f"{used}, the server names {seen}")

    def conversations(self):
        """Real responses become part of the next prompt, whose length the server counts as we do."""
        gen = ["--dataset-name", "multi-turn", "--backend", "openai-chat", "--tokenizer", self.model_folder, "--num-prompts", 30,
               "--num-turns", 3, "--input-len", 60, "--output-len", 20, "--seed", 70]
        asked, outputs, _, _ = self.run(gen, ["--backend", "openai-chat", "--max-concurrency", 4])
        good = {o["request_id"]: o for o in outputs if o["success"]}
        self.row("conversations: every turn succeeds", len(good) == len(asked) == 30, f"{len(good)} of {len(asked)}")
        replies, wrong, overlaps = {}, 0, 0
        order = sorted(good.values(), key=lambda o: (o["session_id"], o["turn"]))
        for before, turn in zip([None, *order], order):
            replies[turn["session_id"], turn["turn"]] = turn["generated_text"]
            messages = [dict(m) for m in asked[turn["request_id"]]["messages"]]
            holes = (m for m in messages if m["role"] == "assistant" and m["content"] is None)
            for at, message in enumerate(holes):
                message["content"] = replies[turn["session_id"], at]
            body = json.dumps({"model": MODEL, "messages": messages}).encode()
            ask = urllib.request.Request(f"{self.url}/tokenize", body, {"content-type": "application/json"})
            wrong += json.load(urllib.request.urlopen(ask, timeout=10))["count"] != turn["prompt_len"]
            if before and before["session_id"] == turn["session_id"]:
                overlaps += turn["start_time"] < before["start_time"] + before["latency"]
        seen = f"{wrong} of {len(order)} prompts differ, {overlaps} turns began before the previous one ended"
        self.row("conversations: each turn contains the real responses", wrong == overlaps == 0 and order, seen)

    def trace(self):
        path = ROOT / "tests/data/trace-azure.csv"
        gen = ["--dataset-name", "azure", "--dataset-path", path, "--num-prompts", 200, "--speed", 20, "--seed", 80]
        asked, outputs, raw, gained = self.run(["--prompt-token-ids", *gen], ["--max-concurrency", 64])
        good = self.answered("200 rows of a trace", 200, asked, outputs, gained)
        first = min(o["scheduled_time"] for o in outputs)
        off = max(abs(o["scheduled_time"] - first - asked[o["request_id"]]["timestamp"]) for o in outputs)
        self.row("200 rows of a trace: due when the trace says", off < 1e-6 and len(good) == 200, f"off by {off * 1e6:.3f} us")


class PoolingChecks(Checks):
    """Embeddings, pooling and rerank against a second server."""

    def all(self):
        one = ["--num-prompts", 30, "--input-len", 60, "--range-ratio", 0.5]
        self.pooled("embeddings", "openai-embeddings", [*one, "--seed", 1], 30)
        self.pooled("embeddings, ids", "openai-embeddings", [*one, "--prompt-token-ids", "--seed", 2], 30)
        self.pooled("embeddings, batches of 4", "openai-embeddings", [*one, "--random-batch-size", 4, "--seed", 3], None)
        self.pooled("pooling", "vllm-pooling", [*one, "--seed", 4], 30)
        rerank = ["--dataset-name", "random-rerank", "--num-prompts", 40, "--input-len", 60, "--random-batch-size", 4, "--no-reranker"]
        self.pooled("rerank", "vllm-rerank", [*rerank, "--seed", 5], None)

    def pooled(self, name, backend, gen, count):
        before = self.metrics()
        requests = self.tool("vb-gen", "--backend", backend, *gen).stdout
        asked = {r["request_id"]: r for r in map(json.loads, requests.splitlines())}
        raw = self.tool("vb-fire", "--base-url", self.url, "--model", MODEL, "--backend", backend, "--max-concurrency", 4, stdin=requests, codes=(0, 1)).stdout
        outputs = [o for o in map(json.loads, raw.splitlines()) if o["type"] == "output"]
        good = [o for o in outputs if o["success"]]
        errors = {o["error"] for o in outputs if not o["success"]}
        every = len(good) == len(asked) == len(outputs) and (count is None or count == len(good))
        self.row(f"{name}: every request succeeds", every, f"{len(good)} of {len(asked)} {list(errors)[:1] or ''}")
        wrong = [o for o in good if o["prompt_len"] != asked[o["request_id"]]["prompt_len"]]
        self.row(f"{name}: lengths as requested", not wrong and good, f"{len(wrong)} of {len(good)} differ")
        ours = sum(o["prompt_len"] for o in good)
        theirs = self.metrics()["vllm:prompt_tokens_total"] - before.get("vllm:prompt_tokens_total", 0)
        self.row(f"{name}: tokens equal the server's counter", ours == theirs, f"{ours} and {theirs:.0f}")
        result, _ = self.result(raw)
        sane = result["completed"] == len(good) and result["mean_e2el_ms"] > 0 and result["total_output_tokens"] == 0
        self.row(f"{name}: vb-stats accepts it", sane, f"E2EL {result['mean_e2el_ms']:.2f} ms, {result['request_throughput']:.1f} requests/s")
