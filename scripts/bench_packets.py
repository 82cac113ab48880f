#!/usr/bin/env python3
"""What `--stamps packets` costs and how exact it is, against the kernel's stamps: alternating pairs of runs of a closed loop.

Run it on a quiet machine with two cores, after `cargo build --release --bins --example referee`. The server is examples/referee on
core 1, whose log is the truth, the client has core 0. Prints a table in Markdown.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def cpu_seconds(child):
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, child.args
    return usage.ru_utime + usage.ru_stime


def run(args, folder, requests, streams, step, stamps):
    """Runs one load and returns its numbers: CPU in µs per chunk of the client and of the server, errors in µs."""
    log, out = folder / "log", folder / "outputs"
    server = subprocess.Popen(
        ["taskset", "-c", "1", args.bin / "examples/referee", "--port", "0", "--step", f"{step}ms", "--log", log],
        stdout=subprocess.PIPE, text=True,
    )
    url = server.stdout.readline().strip()
    fire = ["taskset", "-c", "0", args.bin / "vb-fire", "--base-url", url, "--max-concurrency", str(streams), "--model", "m"]
    with requests.open() as stdin, out.open("w") as stdout:
        client = subprocess.Popen([*fire, "--ignore-eos", "--no-text", "--stamps", stamps], stdin=stdin, stdout=stdout)
        used = cpu_seconds(client)
    server.send_signal(signal.SIGTERM)
    served = cpu_seconds(server)
    truth = {}
    for line in log.open():
        record = json.loads(line)
        truth[record["request_id"]] = record["sent"]
    first, gaps = [], []
    for line in out.open():
        output = json.loads(line)
        if output["type"] == "end":
            end = output
        elif output["type"] == "output" and output["success"]:
            sent = truth[output["request_id"]]
            first.append(abs(output["start_time"] + output["ttft"] - sent[0]) * 1e6)
            gaps += [abs(gap - (sent[at + 1] - sent[at])) * 1e6 for at, gap in enumerate(output["itl"])]
    chunks = end["stamps"]["chunks"]
    return {
        "client": used / chunks * 1e6, "server": served / chunks * 1e6, "first": percentile(first, 0.99),
        "gap": percentile(gaps, 0.99), "missed": chunks - end["stamps"].get("packets", 0), "chunks": chunks,
        "drops": end["stamps"].get("packet_drops", 0), "verdict": end["verdict"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waves", type=int, default=4, help="requests of each stream")
    parser.add_argument("--loads", nargs="+", default=["64x20", "512x20", "2048x50"], help="streams x step in ms")
    parser.add_argument("--json", type=pathlib.Path, help="append each run to this file")
    args = parser.parse_args()
    print("| load | stamps | runs | client, µs of CPU per chunk | server | first chunk p99, µs: median | worst | gap p99, µs: median | worst "
          "| chunks without a packet | verdict |")
    print("|" + "---|" * 11)
    for load in args.loads:
        streams, step = (int(part) for part in load.split("x"))
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            requests = folder / "requests"
            generate = [args.bin / "vb-gen", "--input-len", "128", "--output-len", "100", "--seed", "7", "--num-prompts"]
            with requests.open("w") as file:
                subprocess.run([*generate, str(streams * args.waves)], stdout=file, check=True)
            runs = {"kernel": [], "packets": []}
            for turn in range(args.rounds):
                for stamps in list(runs)[:: 1 if turn % 2 == 0 else -1]:
                    result = run(args, folder, requests, streams, step, stamps)
                    runs[stamps].append(result)
                    if args.json:
                        with args.json.open("a") as file:
                            file.write(json.dumps({"load": load, "stamps": stamps, **result}) + "\n")
        for stamps, results in runs.items():
            def each(key):
                return [result[key] for result in results]
            verdicts = ", ".join(f"{verdict} {each('verdict').count(verdict)}×" for verdict in sorted(set(each("verdict"))))
            missed = f"{sum(each('missed')):,} of {sum(each('chunks')):,}" if stamps == "packets" else "–"
            print(f"| {load} | {stamps} | {args.rounds} | {statistics.median(each('client')):.2f} | {statistics.median(each('server')):.2f} "
                  f"| {statistics.median(each('first')):.1f} | {max(each('first')):.1f} | {statistics.median(each('gap')):.1f} "
                  f"| {max(each('gap')):.1f} | {missed} | {verdicts} |", flush=True)


if __name__ == "__main__":
    main()
