"""A model for Triton's Python backend that answers like TensorRT-LLM's ensemble: as many words as asked for, one per step."""

import os
import sys
import threading
import time

# The backend's interpreter ignores PYTHONPATH.
sys.path += os.environ["PYTHONPATH"].split(os.pathsep)
import numpy as np
import triton_python_backend_utils as backend

WORDS = ["alpha", "beta", "gamma", "delta"]
MAX_PROMPT = 2048
STEP = 0.005


def read_input(request, name, default=None):
    tensor = backend.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def make_response(text, count):
    outputs = [backend.Tensor("text_output", np.array([text.encode()], dtype=object))]
    if count is not None:
        outputs.append(backend.Tensor("num_output_tokens", np.array([count], dtype=np.int32)))
    return backend.InferenceResponse(outputs)


def answer(request, sender):
    prompt = read_input(request, "text_input").decode()
    length = int(read_input(request, "max_tokens"))
    stream = bool(read_input(request, "stream", False))
    counted = bool(read_input(request, "return_num_output_tokens", False))
    words = len(prompt.split())
    if words > MAX_PROMPT:
        error = backend.TritonError(f"Prompt length ({words}) exceeds maximum input length ({MAX_PROMPT}).")
        sender.send(backend.InferenceResponse(error=error))
    else:
        text = ""
        for step in range(length):
            time.sleep(STEP)
            word = f" {WORDS[step % len(WORDS)]}"
            text += word
            if stream:
                sender.send(make_response(word, step + 1 if counted else None))
        if not stream:
            sender.send(make_response(text, length if counted else None))
    sender.send(flags=backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    """Each request has a thread, because Triton waits for `execute` before it takes the next one."""

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=answer, args=(request, request.get_response_sender()), daemon=True).start()
