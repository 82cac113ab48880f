"""A small client for the APIs of LLM servers, which scripts/check_servers.py compares vb-fire with.

It is written from the documentation of the APIs, shares nothing with vb-fire, and needs only the standard library.
"""

import dataclasses
import http.client
import io
import json
import socket
import urllib.parse


@dataclasses.dataclass
class Answer:
    """What a server answered, and what it counted; None is unknown."""

    status: int = 0
    body: bytes = b""
    # The request's path and body, and all bytes of the response, as in tests/data/servers.
    capture: bytes = b""
    text: str = ""
    chunks: int = 0
    prompt: int | None = None
    output: int | None = None

    def add(self, text):
        if text:
            self.text += text
            self.chunks += 1

    def count(self, usage, prompt, output):
        """Takes the counts under these keys of a usage object; a later one replaces an earlier one."""
        if usage:
            self.prompt = usage.get(prompt, self.prompt)
            self.output = usage.get(output, self.output)


def messages_of(request):
    return request.get("messages") or [{"role": "user", "content": request["prompt"]}]


class Completions:
    path = whole_path = "/v1/completions"

    def body(self, request, model, stream):
        body = {"model": model, "prompt": request["prompt"], "max_tokens": request["expected_output_len"], "stream": stream}
        return body | ({"stream_options": {"include_usage": True}} if stream else {}) | request.get("body", {})

    def read(self, event, answer):
        for choice in event.get("choices", []):
            answer.add(choice.get("text"))
        answer.count(event.get("usage"), "prompt_tokens", "completion_tokens")


class Chat(Completions):
    path = whole_path = "/v1/chat/completions"

    def body(self, request, model, stream):
        body = super().body(request | {"prompt": None}, model, stream) | {"messages": messages_of(request)}
        body["max_completion_tokens"] = body.pop("max_tokens")
        del body["prompt"]
        return body

    def read(self, event, answer):
        for choice in event.get("choices", []):
            answer.add((choice.get("delta") or choice.get("message") or {}).get("content"))
        answer.count(event.get("usage"), "prompt_tokens", "completion_tokens")


class Responses:
    path = whole_path = "/v1/responses"

    def body(self, request, model, stream):
        return {
            "model": model, "stream": stream,
            "input": [{"type": "message"} | message for message in messages_of(request)],
            "max_output_tokens": request["expected_output_len"], "store": False,
        } | request.get("body", {})

    def read(self, event, answer):
        kind = event.get("type", "")
        if kind.endswith("output_text.delta"):
            answer.add(event["delta"])
        elif kind in ("response.completed", "response.incomplete"):
            answer.count(event["response"].get("usage"), "input_tokens", "output_tokens")
        elif event.get("object") == "response":
            for item in event["output"]:
                for part in item.get("content") or []:
                    answer.add(part.get("text"))
            answer.count(event.get("usage"), "input_tokens", "output_tokens")


class Messages:
    path = whole_path = "/v1/messages"

    def body(self, request, model, stream):
        return {"model": model, "messages": messages_of(request), "max_tokens": request["expected_output_len"], "stream": stream}

    def read(self, event, answer):
        if event["type"] == "content_block_delta":
            answer.add(event["delta"].get("text"))
        elif event["type"] == "message":
            for block in event["content"]:
                answer.add(block.get("text"))
        usage = event.get("usage") or event.get("message", {}).get("usage") or {}
        answer.count(usage, "input_tokens", "output_tokens")
        if "input_tokens" in usage:
            # The API counts what it found in the prefix cache separately.
            cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
            answer.prompt += sum(usage.get(key) or 0 for key in cached)


class LlamaCompletion:
    """llama.cpp's own API, which vb-fire speaks by the template file scripts/servers/llama.yaml."""

    path = whole_path = "/completion"

    def body(self, request, model, stream):
        return {"prompt": request["prompt"], "n_predict": request["expected_output_len"], "stream": stream}

    def read(self, event, answer):
        answer.add(event.get("content"))
        answer.count(event, "tokens_evaluated", "tokens_predicted")


class Triton:
    path = "/v2/models/ensemble/generate_stream"
    whole_path = "/v2/models/ensemble/generate"

    def body(self, request, model, stream):
        return {"text_input": request["prompt"], "max_tokens": request["expected_output_len"], "stream": stream}

    def read(self, event, answer):
        answer.add(event["text_output"])


class Embeddings:
    path = whole_path = "/v1/embeddings"

    def body(self, request, model, stream):
        return {"model": model, "input": request["prompt"]}

    def read(self, event, answer):
        answer.count(event["usage"], "prompt_tokens", "completion_tokens")


class Rerank(Embeddings):
    path = whole_path = "/v1/rerank"

    def body(self, request, model, stream):
        query, *documents = request["prompt"]
        return {"model": model, "query": query, "documents": documents}


# By the name of the backend of vb-fire.
APIS = {
    "openai": Completions(),
    "openai-chat": Chat(),
    "openai-responses": Responses(),
    "anthropic": Messages(),
    "template": LlamaCompletion(),
    "tensorrt-llm": Triton(),
    "openai-embeddings": Embeddings(),
    "vllm-rerank": Rerank(),
}


def events(body):
    """The JSON objects of an event stream: the `data` lines up to a blank line are one."""
    for block in body.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines and lines != ["[DONE]"]:
            yield json.loads("\n".join(lines))


class Received:
    """Bytes in place of a socket, for http.client."""

    def __init__(self, raw):
        self.raw = raw

    def makefile(self, *_):
        return io.BytesIO(self.raw)


def send(url, backend, request, model="tiny", stream=True, key=None):
    """Sends a request, as a line of vb-gen describes it, and reads the answer."""
    api = APIS[backend]
    path = api.path if stream else api.whole_path
    server = urllib.parse.urlsplit(url)
    body = json.dumps(api.body(request, model, stream))
    headers = {
        "host": server.netloc, "connection": "close", "content-type": "application/json", "content-length": len(body),
        **({"authorization": f"Bearer {key}", "x-api-key": key} if key else {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((server.hostname, server.port), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n{body}".encode())
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    response = http.client.HTTPResponse(Received(raw), method="POST")
    response.begin()
    answer = Answer(response.status, response.read(), f"> POST {path}\n> {body}\n".encode() + raw)
    if answer.status == 200:
        for event in events(answer.body) if stream else [json.loads(answer.body)]:
            api.read(event, answer)
    return answer
