#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a client sees when a worker dies: the longest gap of the streams that ran elsewhere, and when the streams of the
dead worker go on. Starts `shoal serve` for each transport, streams from it, kills (or stops) a worker at a random moment,
and prints distributions over many rounds, beside the gaps of the same streams before anything happened. Which worker a
stream runs on the cluster says, before the fault: streams begin one by one, and /cluster shows where each has gone. A
round in which the cluster replayed other than the victim's sequences counts all of its streams as unaffected. What an
affected stream's replay takes is measured after each round, when the cluster is whole and idle: the time to the first token
of its prompt and what had come of its text, one stream after the other, under a beginning that no cache has.

  benchmarks/failover.py --model deploy/models/shoal-tiny --rounds 20 --transport shm grpc --fault kill stop

With --steady nothing happens to anybody: a cluster with --holders and one with a single holder take turns with the same
streams, and the cost of what is there for failover alone is the ratio of each pair, in tokens/s and in CPU time per token.

  benchmarks/failover.py --steady --starts 16 --rounds 20 --tokens 400
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import random
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
WATCH_S = 2.0  # after the fault
CALM_S = 1.0  # before it
FLIGHT_S = 0.1  # after it: what the victim has computed has reached the clients; gaps that begin later are others


class Stream:
    """A streamed completion: when something of it arrived. Bytes are looked at as little as possible."""

    def __init__(self, address, prompt, tokens, seed):
        body = json.dumps({"model": "bench", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True,
                           "temperature": 0.8, "seed": seed, "stream": True}).encode()
        self.socket = socket.create_connection(address)
        self.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.socket.setblocking(False)
        self.prompt, self.received = prompt, b""
        self.arrivals, self.ended, self.error = [], False, None

    def read(self, now):
        data = self.socket.recv(1 << 16)
        self.received += data
        if b"data: [DONE]" in data:
            self.ended = True
        elif not data:
            self.ended, self.error = True, self.error or "closed without an end"
        if b'"error"' in data:
            self.error = data.decode(errors="replace")
        if b"data: {" in data:
            self.arrivals.append(now)

    def text(self):
        lines = self.received.split(b"\n")[:-1]
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith(b"data: {"))

    def longest_gap(self, begin, end, begun_within=math.inf):
        """Of the gaps that touch [begin, end]: the longest, in seconds, and when it was over. One that begins later than
        so long after the begin does not count."""
        times = [t for t in self.arrivals if t <= end]
        gaps = [(b - a, b) for a, b in zip(times, times[1:]) if b >= begin and a <= begin + begun_within]
        if not self.ended and times and times[-1] <= begin + begun_within:
            gaps.append((end - times[-1], end))
        return max(gaps, default=(0.0, begin))


class Cluster:
    def __init__(self, arguments, transport, holders):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="shoal-failover-", suffix=".log")
        self.process = subprocess.Popen(
            [arguments.binary, "serve", "--model", arguments.model, "--served-model-name", "bench", "--workers",
             str(arguments.workers), "--holders", str(holders), "--transport", transport, "--http",
             "127.0.0.1:0", "--log-level", "warn"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
            text=True)
        line = self.process.stdout.readline()
        if "listening on" not in line:
            sys.exit(f"shoal serve did not start:\n{pathlib.Path(self.log.name).read_text()}")
        self.url = line.split()[-1]
        host, port = self.url.removeprefix("http://").split(":")
        self.address = (host, int(port))

    def state(self):
        with urllib.request.urlopen(self.url + "/cluster", timeout=10) as answer:
            return json.loads(answer.read())

    def wait_until_whole(self, holders):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            state = self.state()
            if (state["holders"]["least"] >= holders and state["requests_running"] == 0 and
                    all(worker["state"] == "serving" for worker in state["workers"])):
                return
            time.sleep(0.02)
        sys.exit("the cluster is not whole again")

    def cpu_seconds(self):
        """Of the coordinator and all workers, so far."""
        total = 0
        for pid in [self.process.pid, *(worker["pid"] for worker in self.state()["workers"])]:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def watch(streams, until, enough=None):
    """Reads until the time, or until enough() holds."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not stream.ended:
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        while time.monotonic() < until and not (enough and enough()):
            for key, _ in selector.select(timeout=min(0.05, max(0.0, until - time.monotonic()))):
                key.data.read(time.monotonic())
                if key.data.ended:
                    selector.unregister(key.fileobj)


def prompt_of(index, chance):
    return f"Scene {index}:\n" + "My lord, " * chance.randint(1, 40)


def replay_ms(cluster, text, seen=itertools.count()):
    """Until the first token after a text as long as this, which nothing cached begins like."""
    begin = time.monotonic()
    stream = Stream(cluster.address, f"Act {next(seen)}, " + text.removeprefix("Scene "), 1, 0)
    watch([stream], begin + 60, lambda: stream.arrivals)
    stream.socket.close()
    assert stream.arrivals, stream.error
    return 1e3 * (stream.arrivals[0] - begin)


def begin_streams(cluster, arguments, chance):
    """Streams that have begun, and the rank that each of them runs on."""
    streams, ranks = [], []
    running = [worker["running_sequences"] for worker in cluster.state()["workers"]]
    for index in range(arguments.streams):
        streams.append(Stream(cluster.address, prompt_of(index, chance), arguments.tokens, index))
        deadline = time.monotonic() + 60
        while True:
            watch(streams, time.monotonic() + 0.002)
            now = [worker["running_sequences"] for worker in cluster.state()["workers"]]
            if sum(now) == sum(running) + 1:
                break
            assert time.monotonic() < deadline, f"stream {index} has not begun: {streams[index].error}"
        ranks.append(next(rank for rank, (before, after) in enumerate(zip(running, now)) if after > before))
        running = now
    return streams, ranks


def one_round(cluster, arguments, fault, chance):
    """Gaps in ms: {"calm": [...], "unaffected": [...], "resumed": [...]}, what the replay of each resumed one takes, and
    the phases the cluster itself measured."""
    streams, ranks = begin_streams(cluster, arguments, chance)
    watch(streams, time.monotonic() + 60, lambda: all(len(stream.arrivals) > 20 or stream.error for stream in streams))
    assert not any(stream.error for stream in streams), [stream.error for stream in streams]
    watch(streams, time.monotonic() + CALM_S + chance.uniform(0, 0.3))
    before = cluster.state()
    victim = chance.choice(before["workers"])
    texts = {stream: stream.prompt + stream.text() for stream, rank in zip(streams, ranks) if rank == victim["rank"]}
    watch(streams, time.monotonic() + 0.002)
    struck = time.monotonic()
    os.kill(victim["pid"], signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    watch(streams, struck + WATCH_S)
    end = time.monotonic()
    failed = [stream.error for stream in streams if stream.error]
    losses = [recovery for recovery in cluster.state()["recoveries"]
              if recovery["epoch"] > before["epoch"] and recovery["cause"] != "entry"]
    affected = list(texts)
    clear = (len(affected) == sum(recovery["replayed"] for recovery in losses) and
             before["preemptions"] == cluster.state()["preemptions"])
    if not clear:
        affected = []
    result = {
        "calm": [1e3 * stream.longest_gap(struck - CALM_S, struck)[0] for stream in streams],
        "unaffected": [1e3 * stream.longest_gap(struck, end)[0] for stream in streams if stream not in affected],
        "resumed": [1e3 * (stream.longest_gap(struck, end, FLIGHT_S)[1] - struck) for stream in affected],
        "unclear": [] if clear else [victim["rank"]],
        "failed": failed,
    }
    for name in ("silent_ms", "decided_ms", "fenced_ms", "resumed_ms"):
        result[name] = [losses[0][name]] if losses and losses[0][name] is not None else []
    if fault == "stop":
        os.kill(victim["pid"], signal.SIGCONT)
    for stream in streams:
        stream.socket.close()
    cluster.wait_until_whole(arguments.holders)
    result["replay_ms"] = [replay_ms(cluster, texts[stream]) for stream in affected]
    result["beyond_replay_ms"] = [gap - replay for gap, replay in zip(result["resumed"], result["replay_ms"])]
    return result


def steady_turn(cluster, arguments, seed):
    """Tokens per second and CPU milliseconds per token of the same streams, from their first steps to their last."""
    cluster.wait_until_whole(1)
    tokens, cpu, begin = cluster.state()["generation_tokens"], cluster.cpu_seconds(), time.monotonic()
    chance = random.Random(seed)
    streams = [Stream(cluster.address, prompt_of(index, chance), arguments.tokens, index)
               for index in range(arguments.streams)]
    watch(streams, begin + 120, lambda: all(stream.ended for stream in streams))
    end = time.monotonic()
    errors = [stream.error for stream in streams if stream.error]
    assert not errors, errors
    tokens = cluster.state()["generation_tokens"] - tokens
    return tokens / (end - begin), 1e3 * (cluster.cpu_seconds() - cpu) / tokens


def steady_start(arguments, transport):
    """Ratios of pairs of turns of two clusters that run side by side: of time, and of CPU time, per token."""
    clusters = {holders: Cluster(arguments, transport, holders) for holders in (1, arguments.holders)}
    speeds, costs = [], []
    try:
        for cluster in clusters.values():
            steady_turn(cluster, arguments, 0)  # warm
        for round_ in range(arguments.rounds):
            turns = {}
            order = list(clusters) if round_ % 2 else list(clusters)[::-1]
            for holders in order:
                turns[holders] = steady_turn(clusters[holders], arguments, round_)
            speeds.append(turns[1][0] / turns[arguments.holders][0])
            costs.append(turns[arguments.holders][1] / turns[1][1])
    finally:
        for cluster in clusters.values():
            cluster.stop()
    return speeds, costs


def steady(arguments, transport):
    starts = []
    for _ in range(arguments.starts):
        starts.append(steady_start(arguments, transport))
        if arguments.json:
            print(json.dumps({"transport": transport, "workers": arguments.workers, "holders": arguments.holders,
                              "streams": arguments.streams, "tokens": arguments.tokens,
                              "time_per_token_ratios": starts[-1][0],
                              "cpu_time_per_token_ratios": starts[-1][1]}), flush=True)
    if arguments.json:
        return
    print(f"{transport}, steady: {arguments.starts} starts of {arguments.rounds} pairs, {arguments.workers} workers, "
          f"{arguments.holders} holders beside 1, {arguments.streams} streams of {arguments.tokens} tokens")
    for name, ratios in zip(("time per token", "CPU time per token"), zip(*starts)):
        # How the processes lie in memory differs from start to start, and stays: a start is one observation.
        means = sorted(100 * (statistics.fmean(start) - 1) for start in ratios)
        error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
        print(f"  {name:<20} {statistics.fmean(means):+6.2f} % (mean over starts; standard error {error:.2f} %, "
              f"starts from {means[0]:+.2f} % to {means[-1]:+.2f} %)", flush=True)


def show(name, values, note):
    if not values:
        print(f"  {name:<34} -")
        return
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
    print(f"  {name:<34} {at(0.5):9.1f} {at(0.9):9.1f} {at(0.99):9.1f} {values[-1]:9.1f}   {len(values)} {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/shoal"))
    parser.add_argument("--model", default=str(ROOT / "deploy/models/shoal-tiny"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--holders", type=int, default=2)
    parser.add_argument("--transport", nargs="+", default=["shm"])
    parser.add_argument("--fault", nargs="+", choices=("kill", "stop"), default=["kill"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=10, help="with --steady: new clusters, each for --rounds pairs")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1700)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steady", action="store_true", help="no fault: the cost of --holders beside --holders 1")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of tables")
    arguments = parser.parse_args()
    for transport in arguments.transport:
        if arguments.steady:
            steady(arguments, transport)
            continue
        for fault in arguments.fault:
            chance = random.Random(arguments.seed)
            cluster = Cluster(arguments, transport, arguments.holders)
            sums = {}
            try:
                cluster.wait_until_whole(arguments.holders)
                for _ in range(arguments.rounds):
                    for name, values in one_round(cluster, arguments, fault, chance).items():
                        sums.setdefault(name, []).extend(values)
                    cluster.wait_until_whole(arguments.holders)
            finally:
                cluster.stop()
            if arguments.json:
                print(json.dumps({"transport": transport, "fault": fault, "workers": arguments.workers,
                                  "holders": arguments.holders, "streams": arguments.streams,
                                  "rounds": arguments.rounds, **sums}), flush=True)
                continue
            print(f"{transport}, {fault}: {arguments.rounds} rounds, {arguments.workers} workers, {arguments.holders} "
                  f"holders, {arguments.streams} streams, seed {arguments.seed}")
            print(f"  {'ms':<34} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}")
            show("longest gap in a calm second", sums["calm"], "streams")
            show("longest gap, unaffected streams", sums["unaffected"], "streams")
            show("affected streams go on after", sums["resumed"], "streams")
            show("their replay, each by itself", sums["replay_ms"], "streams")
            show("beyond replay (bar 300)", sums["beyond_replay_ms"], "streams")
            show("cluster: silent before suspected", sums["silent_ms"], "deaths")
            show("cluster: suspected -> decided", sums["decided_ms"], "deaths")
            show("cluster: suspected -> fenced", sums["fenced_ms"], "deaths")
            show("cluster: suspected -> resumed", sums["resumed_ms"], "deaths")
            print(f"  failed streams: {len(sums['failed'])}; rounds with other replays than the victim's: "
                  f"{len(sums['unclear'])}", flush=True)
            for failure in sums["failed"][:3]:
                print(f"    {failure[:200]}")


if __name__ == "__main__":
    main()
