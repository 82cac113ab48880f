"""Compares chat templates as vb-gen and transformers apply them. Run it with check-templates.sh."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

DATA = Path("tests/data/templates")
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}


def undated(text):
    """Replaces today's date with DATE, because it changes every day."""
    return text and re.sub(r"(?<=Current date: )[0-9]{4}-[0-9]{2}-[0-9]{2}", "DATE", text)


def text_for_parts(message):
    """Joins the text parts of a message, as vLLM does for templates that do not support parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {"content": "\n".join(part["text"] for part in content)}


def by_transformers(template, chat, tokens):
    """The text of a chat; None if the template rejects it."""

    def render(messages):
        rendered, _ = render_jinja_template(
            [messages],
            tools=chat.get("tools"),
            chat_template=template,
            add_generation_prompt=True,
            **tokens,
            **chat.get("chat_template_kwargs", {}),
        )
        return rendered[0]

    messages = chat["messages"]
    parts = any(isinstance(message.get("content"), list) for message in messages)
    try:
        # A template that prints the list as Python does, skips it or fails does not support parts.
        text = render(messages)
        if not parts or ("'type'" not in text and chat["messages"][0]["content"][0]["text"] in text):
            return undated(text)
    except (jinja2.TemplateError, TypeError, KeyError):
        if not parts:
            return None
    try:
        return undated(render([text_for_parts(message) for message in messages]))
    except (jinja2.TemplateError, TypeError, KeyError):
        return None


def by_vb_gen(vb_gen, folder, chat):
    """The text from vb-gen: the prompt of one request."""
    row = {"messages": chat["messages"], "body": {key: chat[key] for key in ("tools", "chat_template_kwargs") if key in chat}}
    flags = ["--dataset-name", "custom", "--dataset-path", "-", "--num-prompts", "0", "--tokenizer", str(folder)]
    done = subprocess.run([vb_gen, *flags], input=json.dumps(row) + "\n", capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        if "cannot apply the chat template" not in done.stderr:
            sys.exit(f"check-templates: vb-gen: {done.stderr}")
        return None
    return undated(json.loads(done.stdout)["prompt"])


def template_of(folder):
    """The template of a model folder, and its special tokens."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    jinja = folder / "chat_template.jinja"
    template = jinja.read_text() if jinja.exists() else config.get("chat_template")
    if template is None:
        sys.exit(f"check-templates: {folder} has no chat template")
    if isinstance(template, list):
        template = next(t["template"] for t in template if t["name"] == "default")
    tokens = {key: value for key, value in config.items() if key.endswith("_token") and value}
    return template, {k: v["content"] if isinstance(v, dict) else v for k, v in tokens.items() if isinstance(v, (str, dict))}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vb-gen", required=True)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("folders", nargs="*", type=Path)
    args = parser.parse_args()

    chats = json.loads((DATA / "chats.json").read_text())
    path = DATA / "golden.json"
    golden = json.loads(path.read_text()) if path.exists() else {}
    fresh, wrong = {}, 0

    def check(name, template, tokens, folder, kept):
        nonlocal wrong
        theirs = {chat["name"]: by_transformers(template, chat, tokens) for chat in chats}
        differing = []
        for chat in chats:
            want, got = theirs[chat["name"]], by_vb_gen(args.vb_gen, folder, chat)
            if want != got:
                differing.append(f"  {chat['name']}\n    transformers: {want!r}\n    vb-gen:       {got!r}")
        stale = kept is not None and kept != theirs and not args.update
        wrong += len(differing) + stale
        refused = sum(text is None for text in theirs.values())
        state = "golden.json is stale: --update" if stale else ""
        print(f"{name:<24} {len(chats):>5} {len(chats) - len(differing):>6} {refused:>8}  {state}", flush=True)
        print(*differing, sep="\n", end="\n" if differing else "")
        return theirs

    print(f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}")
    print(f"{'template':<24} {'chats':>5} {'equal':>6} {'refused':>8}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tokenizer.json").write_text(Path("src/tokens/builtin.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
        for file in sorted(DATA.glob("*.jinja")):
            (folder / "chat_template.jinja").write_text(file.read_text())
            fresh[file.stem] = check(file.stem, file.read_text(), TOKENS, folder, golden.get(file.stem, {}))
    for folder in args.folders:
        check(str(folder)[-24:], *template_of(folder), folder, None)
    if args.update:
        path.write_text(json.dumps(fresh, ensure_ascii=False, indent=1) + "\n")
    print(f"{wrong} wrong" if wrong else "all equal")
    sys.exit(1 if wrong else 0)


main()
