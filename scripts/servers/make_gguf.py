"""Writes a tiny Llama with random weights as a GGUF file, for llama.cpp's server.

make_gguf.py FOLDER FILE    FOLDER has the model's tokenizer.json and tokenizer_config.json; needs the packages gguf and numpy

The model only ever generates words of ASCII letters. llama.cpp parses chat responses for tool calls and reasoning, and rejects
some that random bytes make; a word is never the end of the text either, so every response is as long as requested.
"""

import json
import pathlib
import re
import sys

import gguf
import numpy as np

CONTEXT, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 8192, 128, 256, 2, 4, 2, 32


def write_model(folder, path):
    folder = pathlib.Path(folder)
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    # In the alphabet of byte-level BPE, Ġ is a space.
    words = np.array([re.fullmatch("Ġ?[A-Za-z]+", token) is not None for token in tokens])

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)

    draw = np.random.default_rng(0)

    def weights(*shape):
        return (draw.standard_normal(shape) * 0.05).astype(np.float16)

    # The first feature is the same for every token, and no layer changes it. Through it the last matrix forbids what is not a word.
    embeddings, output = weights(len(tokens), HIDDEN), weights(len(tokens), HIDDEN)
    embeddings[:, 0] = 1
    output[:, 0] = np.where(words, 0, -100)
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        into = {"attn_output": weights(HIDDEN, HEADS * HEAD), "ffn_down": weights(HIDDEN, INNER)}
        for matrix in into.values():
            matrix[0] = 0
        into |= {
            "attn_norm": np.ones(HIDDEN, np.float32), "ffn_norm": np.ones(HIDDEN, np.float32),
            "attn_q": weights(HEADS * HEAD, HIDDEN), "attn_k": weights(KV_HEADS * HEAD, HIDDEN),
            "attn_v": weights(KV_HEADS * HEAD, HIDDEN), "ffn_gate": weights(INNER, HIDDEN), "ffn_up": weights(INNER, HIDDEN),
        }
        for name, matrix in into.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_model(*sys.argv[1:])
