# SPDX-License-Identifier: Apache-2.0
"""Shows our lead claim on real processes, a real model and real sockets: whatever dies, stands still, loses its
connection or comes back, and whenever, no request fails and no byte of any answer changes. Every kind of request is
compared with the answer of a cluster that nothing happened to."""

import contextlib
import http.client
import json
import math
import os
import random
import shutil
import signal
import socket
import threading
import time
import urllib.parse

import pytest

from cluster_process import MODEL, Head, Process, Serve, alive, complete, get_json, run, wait_for

SEED = int(os.environ.get("SHOAL_SEED", "20240611"))
SPEECH = ("KING RICHARD:\nNow is the winter of our discontent\nMade glorious summer by this sun of York;\n"
          "And all the clouds that lour'd upon our house\nIn the deep bosom of the ocean buried.\n")

# --- Every kind of request --------------------------------------------------------------------------------------------

LONG = {"max_tokens": 700, "ignore_eos": True}
REQUESTS = {
    "greedy, streamed": ("completions", {"prompt": "KING RICHARD:\n", "temperature": 0, "stream": True, **LONG}),
    "sampled by seed, streamed": ("completions", {"prompt": "JULIET:\nO ", "temperature": 0.9, "top_p": 0.95, "seed": 7,
                                                  "stream": True, **LONG}),
    "three choices, streamed": ("completions", {"prompt": "First Citizen:\n", "n": 3, "temperature": 0.8, "top_k": 40,
                                                "seed": 11, "stream": True, **LONG, "max_tokens": 400}),
    "log-probabilities": ("completions", {"prompt": "HAMLET:\nTo be, ", "logprobs": 3, "temperature": 0.7, "seed": 3,
                                          **LONG, "max_tokens": 400}),
    "echo with the prompt's log-probabilities": ("completions", {"prompt": SPEECH * 4, "echo": True, "logprobs": 1,
                                                                 "temperature": 0, **LONG, "max_tokens": 200}),
    "penalties": ("completions", {"prompt": "ROMEO:\nBut soft, ", "presence_penalty": 0.7, "frequency_penalty": 0.4,
                                  "repetition_penalty": 1.15, "temperature": 0.8, "seed": 5, "stream": True, **LONG}),
    "a late stop string": ("completions", {"prompt": "CORIOLANUS:\n", "stop": ["zzz", "Queen"], "temperature": 0.8,
                                           "seed": 13, "stream": True, "max_tokens": 900}),
    "logit bias and least length": ("completions", {"prompt": "MACBETH:\n", "logit_bias": {"17": -5, "33": 2},
                                                    "min_tokens": 300, "temperature": 0.6, "seed": 17,
                                                    "max_tokens": 600}),
    "a chat with log-probabilities, streamed": ("chat/completions", {
        "messages": [{"role": "user", "content": "Speak to me of love."}], "temperature": 0.8, "seed": 19,
        "logprobs": True, "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True},
        **LONG, "max_tokens": 400}),
    "a long prompt": ("completions", {"prompt": SPEECH * 7, "temperature": 0, "stream": True, **LONG, "max_tokens": 150}),
    "another one with the same beginning": ("completions", {"prompt": SPEECH * 7 + "GLOUCESTER:\n", "temperature": 0,
                                                            "user": "anne", **LONG, "max_tokens": 150}),
    "one that others go before": ("completions", {"prompt": "OTHELLO:\n", "priority": 3, "temperature": 0.7, "seed": 23,
                                                  "stream": True, **LONG, "max_tokens": 500}),
}


def shorter_than(tokens):
    return [kind for kind, (_, body) in REQUESTS.items() if body["max_tokens"] < tokens]


class Answer(threading.Thread):
    """One request on its way: what has come of it, choice by choice, and when."""

    def __init__(self, url, kind, timeout_s=120):
        super().__init__(daemon=True)
        self.kind, self._url, self._timeout_s = kind, url, timeout_s
        self.choices, self.usage, self.error, self.ended, self.arrivals = {}, None, None, False, []
        self.start()

    def run(self):
        path, body = REQUESTS[self.kind]
        try:
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(self._url).netloc, timeout=self._timeout_s)
            connection.request("POST", f"/v1/{path}", json.dumps({"model": "shoal-tiny", **body}),
                               {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                self.error = f"HTTP {reply.status}: {reply.read().decode()}"
            elif body.get("stream"):
                for line in reply:
                    self._event(line.decode().strip())
                if not self.ended and self.error is None:
                    self.error = "the stream ended without [DONE]"
            else:
                self._take(json.loads(reply.read()))
                self.ended = True
        except (OSError, http.client.HTTPException) as error:
            self.error = f"connection: {error!r}"

    def _event(self, line):
        if line == "data: [DONE]":
            self.ended = True
        elif line.startswith("data: "):
            self.arrivals.append(time.monotonic())
            self._take(json.loads(line[len("data: "):]))

    def _take(self, event):
        if "error" in event:
            self.error = event["error"]
            return
        if event.get("usage"):
            # How much of a prompt was cached depends on where it ran before.
            self.usage = {key: event["usage"][key] for key in ("prompt_tokens", "completion_tokens")}
        for choice in event["choices"]:
            part = self.choices.setdefault(choice["index"], {"text": "", "finish_reason": None, "logprobs": []})
            message = choice.get("delta") or choice.get("message") or {}
            part["text"] += choice.get("text") or message.get("content") or ""
            part["finish_reason"] = choice.get("finish_reason") or part["finish_reason"]
            logprobs = choice.get("logprobs") or {}
            part["logprobs"] += logprobs.get("content") or []
            # The completions API has four lists in one object: side by side they say which belong together.
            columns = [logprobs.get(name) or [] for name in ("text_offset", "tokens", "token_logprobs", "top_logprobs")]
            part["logprobs"] += [list(row) for row in zip(*columns)]

    def result(self):
        """What must not depend on anything that happens to the cluster."""
        self.join(self._timeout_s + 60)
        assert not self.is_alive(), f"{self.kind}: no end"
        assert self.error is None, f"{self.kind}: {self.error}"
        assert self.ended, f"{self.kind}: broke off"
        return {"choices": self.choices, "usage": self.usage}


@pytest.fixture(scope="module")
def expected():
    with Serve(workers=1, transport="inprocess") as cluster:
        answers = [Answer(cluster.url, kind) for kind in REQUESTS]
        return {answer.kind: answer.result() for answer in answers}


class Load:
    """Clients that ask for everything, over and over, and compare."""

    def __init__(self, url, expected, clients=6, kinds=tuple(REQUESTS)):
        self._url, self._expected, self._kinds = url, expected, kinds
        self._stop = threading.Event()
        self.compared, self.wrong = 0, []
        self._threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, index):
        turn = index * 2
        while not self._stop.is_set() and not self.wrong:
            kind = self._kinds[turn % len(self._kinds)]
            turn += 1
            try:
                found = Answer(self._url, kind).result()
                assert found == self._expected[kind], f"{kind}: {difference(self._expected[kind], found)}"
                self.compared += 1
            except AssertionError as error:
                self.wrong.append(str(error))

    def finish(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(240)
            assert not thread.is_alive(), "a request does not end"
        assert not self.wrong, "\n".join(self.wrong)
        return self.compared


def difference(want, found):
    """Where two results part."""
    for index, choice in want["choices"].items():
        other = found["choices"].get(index, {"text": "", "finish_reason": None, "logprobs": []})
        for key in choice:
            if choice[key] == other[key]:
                continue
            at = next((i for i, (a, b) in enumerate(zip(choice[key], other[key])) if a != b),
                      min(len(choice[key]), len(other[key]))) if choice[key] and other[key] else 0
            return (f"choice {index}, {key}, from {at}: want {str(choice[key])[at:at + 80]!r}, "
                    f"found {str(other[key])[at:at + 80]!r}")
    return f"want {want['usage']}, found {found['usage']}"


# --- What happens to workers ------------------------------------------------------------------------------------------


def whole(cluster, holders=2):
    """All workers serve, and every expert has its holders again."""
    state = cluster.cluster()
    return (state["serving"] and state["holders"]["least"] >= holders and
            all(worker["state"] == "serving" for worker in state["workers"]))


def wait_until_whole(cluster, holders=2, timeout_s=60):
    wait_for(lambda: whole(cluster, holders), timeout_s, "all workers serving again")


@contextlib.contextmanager
def loaded_cluster(expected, transport="shm", workers=4, holders=2, clients=6, kinds=tuple(REQUESTS)):
    with Serve("--holders", holders, workers=workers, transport=transport) as cluster:
        load = Load(cluster.url, expected, clients, kinds)
        time.sleep(0.5)
        yield cluster, random.Random(SEED)
        compared = load.finish()
        print(f"{compared} answers compared, seed {SEED}")
        assert compared >= clients


# Ten rounds of each thing that happens to workers and links; a hundred in the slow set.
ROUNDS = pytest.mark.parametrize("rounds", (10, pytest.param(100, marks=pytest.mark.slow)))
TRANSPORTS = pytest.mark.parametrize("transport", ("shm", "grpc"))


@TRANSPORTS
@ROUNDS
def test_no_request_is_lost_when_workers_are_killed(rounds, transport, expected):
    replayed = rewound = 0
    with loaded_cluster(expected, transport) as (cluster, chance):
        for round_ in range(rounds):
            before = cluster.cluster()
            pid = chance.choice(before["workers"])["pid"]
            time.sleep(chance.uniform(0, 0.7))
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: cluster.cluster()["epoch"] > before["epoch"], 10, f"round {round_}: noticed")
            wait_until_whole(cluster)
            assert pid not in cluster.worker_pids() and not alive(pid)
            for recovery in cluster.cluster()["recoveries"]:
                if recovery["epoch"] > before["epoch"] and recovery["cause"] != "entry":
                    replayed, rewound = replayed + recovery["replayed"], rewound + recovery["rewound"]
    # The deaths hit what was running, and what was running survived both ways.
    assert replayed >= rounds / 2 and rewound >= rounds / 2, (replayed, rewound)


@TRANSPORTS
@ROUNDS
def test_a_worker_that_stands_still_spoils_nothing_and_comes_back(rounds, transport, expected):
    """It is left out, and comes back by itself when it goes on: no reload, no restart."""
    with loaded_cluster(expected, transport) as (cluster, chance):
        for round_ in range(rounds):
            before = cluster.cluster()
            pid = chance.choice(before["workers"])["pid"]
            os.kill(pid, signal.SIGSTOP)
            time.sleep(1 + 4 * chance.random() ** 3)  # 1 to 5 s, 2 on average
            during = cluster.cluster()
            assert during["serving"] and during["epoch"] > before["epoch"], f"round {round_}"
            os.kill(pid, signal.SIGCONT)
            wait_until_whole(cluster)
            assert pid in cluster.worker_pids(), f"round {round_}: it was replaced"


@TRANSPORTS
@ROUNDS
def test_two_deaths_at_almost_the_same_time(rounds, transport, expected):
    with loaded_cluster(expected, transport, holders=3) as (cluster, chance):
        for _ in range(rounds):
            first, second = chance.sample(cluster.worker_pids(), 2)
            time.sleep(chance.uniform(0, 0.3))
            os.kill(first, signal.SIGKILL)
            time.sleep(0.05)
            os.kill(second, signal.SIGKILL)
            wait_for(lambda: cluster.cluster()["holders"]["least"] < 3, 10, "noticed")
            assert not cluster.cluster()["paused"]
            wait_until_whole(cluster, holders=3)
            assert not {first, second} & set(cluster.worker_pids())


def test_over_mpi_others_go_on_and_the_job_starts_again_when_it_must(expected):
    """What OpenMPI allows: a rank that stood still comes back; a dead one is missed by nobody but cannot be replaced, so
    the job is started anew when an expert has lost its last holder."""
    # Ranks that wait spin: with fewer cores than ranks a step takes long.
    with loaded_cluster(expected, "mpi", clients=3, kinds=shorter_than(401)) as (cluster, chance):
        before = cluster.cluster()
        paused = chance.choice(before["workers"])["pid"]
        os.kill(paused, signal.SIGSTOP)
        time.sleep(1.5)
        during = cluster.cluster()
        assert during["serving"] and during["epoch"] > before["epoch"]
        os.kill(paused, signal.SIGCONT)
        wait_until_whole(cluster)
        assert set(cluster.worker_pids()) == {worker["pid"] for worker in before["workers"]}

        epoch = cluster.cluster()["epoch"]
        pids = cluster.worker_pids()
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: cluster.cluster()["epoch"] > epoch, 10, "noticed")
        time.sleep(2)
        state = cluster.cluster()
        assert state["serving"] and state["workers"][0]["state"] == "gone"
        for pid in pids[1:3]:  # every expert has a second holder among any three of four, and most both
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: any(recovery["paused"] for recovery in cluster.cluster()["recoveries"]), 10, "paused")
        wait_until_whole(cluster)
        assert not set(pids) & set(cluster.worker_pids())


def test_losing_all_holders_of_an_expert_pauses_and_loses_nothing(expected):
    with loaded_cluster(expected, clients=4) as (cluster, _):
        pids = cluster.worker_pids()
        for pid in pids[:3]:  # every expert has a second holder among any three of four, and most both
            os.kill(pid, signal.SIGSTOP)  # they stay away for a moment, so that the pause can be seen
        paused = wait_for(lambda: cluster.cluster()["paused"], 10, "paused")
        assert "holder" in paused
        code, out, err = run("status", cluster.url)
        assert code == 0 and "PAUSED until a worker has loaded what is missing: " in out, err
        assert "interrupted and waiting to go on" in out and " running," not in out and "held by" not in out, out
        answer = Answer(cluster.url, "greedy, streamed")  # taken, and waits
        time.sleep(1)
        assert not answer.ended and answer.error is None
        for pid in pids[:3]:
            os.kill(pid, signal.SIGKILL)
        wait_until_whole(cluster)
        assert answer.result() == expected["greedy, streamed"]


def test_one_holder_is_enough_to_lose_nothing_only_slower(expected):
    with loaded_cluster(expected, workers=2, holders=1, clients=3) as (cluster, chance):
        for _ in range(2):
            victim = chance.choice(cluster.worker_pids())
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: victim not in cluster.worker_pids(), 10, "replaced")
            wait_until_whole(cluster, holders=1)


# --- Broken and slow connections --------------------------------------------------------------------------------------


class Proxy:
    """TCP in between that can be slow, cut, refusing (connections), or swallow what comes after so many bytes."""

    def __init__(self, port, at=("127.0.0.1", 0)):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(at)
        self.port = self._listener.getsockname()[1]
        self.delay_s = 0
        self.refusing, self.carries = False, math.inf  # bytes of each connection, each way
        self._sockets = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.refusing:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every token waits 40 ms for an ACK
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        seen = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen += len(data)
                if self.delay_s:
                    time.sleep(self.delay_s)
                if seen <= self.carries:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Ends every connection; new ones may be made."""
        sockets, self._sockets = self._sockets, set()
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listener.close()
        self.cut()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def exchange_behind_proxy(stack):
    """Flags of a worker whose peers reach it through a proxy: at the same port of another address of this host."""
    port = free_port()
    proxy = Proxy(port, ("127.0.0.2", port))
    stack.callback(proxy.close)
    return proxy, ("--transport", "grpc", "--exchange-listen", f"127.0.0.1:{port}", "--exchange-advertise", "127.0.0.2")


@contextlib.contextmanager
def cluster_behind_proxies(*flags, workers=3, between="coordinator"):
    """Workers by hand whose streams to the coordinator pass through a proxy each; or those of their peers to them."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(
            Head("coordinator", "--model", MODEL, "--workers", workers, "--holders", 2, "--cluster-listen",
                 f"127.0.0.1:{port}", "--http", "127.0.0.1:0", *flags))
        head.wait_for_text(f"waiting for {workers} workers")
        proxies, processes = [], []
        for _ in range(workers):
            dial, transport = port, ("--transport", "shm", "--cluster-name", f"proxies-{port}")
            if between == "workers":
                proxy, transport = exchange_behind_proxy(stack)
            else:
                proxy = Proxy(port)
                stack.callback(proxy.close)
                dial = proxy.port
            proxies.append(proxy)
            processes.append(stack.enter_context(
                Process("worker", "--model", MODEL, "--coordinator", f"127.0.0.1:{dial}", *transport, "--threads", 1)))
        head.wait_until_listening()
        head.port, head.cluster_name = port, f"proxies-{port}"
        yield head, proxies, processes


@pytest.mark.parametrize("between", ("coordinator", "workers"))
@ROUNDS
def test_links_that_are_cut_or_slow_lose_nothing(rounds, between, expected):
    chance = random.Random(SEED)
    # Heartbeats to the coordinator that come so late cost an epoch. Rows between workers that come late are nobody's death;
    # their bytes pass through Python: short answers.
    delay_s, kinds = {"coordinator": (0.4, tuple(REQUESTS)), "workers": (0.1, shorter_than(401))}[between]
    with cluster_behind_proxies(between=between) as (head, proxies, processes):
        load = Load(head.url, expected, clients=4, kinds=kinds)
        for round_ in range(2 * rounds):
            time.sleep(chance.uniform(0, 0.5))
            proxy = chance.choice(proxies)
            epoch = head.cluster()["epoch"]
            if round_ % 2:
                proxy.delay_s = delay_s
                time.sleep(1)
                proxy.delay_s = 0
                assert between == "coordinator" or head.cluster()["epoch"] == epoch, f"round {round_}"
            else:
                proxy.cut()
                wait_for(lambda: head.cluster()["epoch"] > epoch, 10, f"round {round_}: noticed")
            wait_until_whole(head)
        assert load.finish() >= rounds // 2
        assert set(head.worker_pids()) == {process.pid for process in processes}  # nobody had to start anew


def left_out(head):
    return [worker["pid"] for worker in head.cluster()["workers"] if worker["state"] == "left out"]


@pytest.mark.parametrize("how, value", (("refusing", True), ("carries", 0), ("carries", 3000)))
def test_a_worker_that_its_peers_cannot_reach_is_left_out_until_they_can(how, value, expected):
    """A link that carries 3,000 bytes connects, and is silent then, as links are that drop long packets: the steps tell."""
    silent_later = how == "carries" and value > 0
    with cluster_behind_proxies("--step-timeout-s", 1, workers=4, between="workers") as (head, proxies, processes):
        load = Load(head.url, expected, clients=2, kinds=shorter_than(201))
        time.sleep(0.5)
        healthy = getattr(proxies[1], how)
        setattr(proxies[1], how, value)
        if value:  # else it dawns on them when they connect next
            proxies[1].cut()
        wait_for(lambda: left_out(head) == [processes[1].pid], 20, "left out")
        wait_for(head.serving, 10, "going on")
        for _ in range(3 if silent_later else 1):  # it tries again and again, and the others go on
            tokens = head.cluster()["generation_tokens"]
            wait_for(lambda: head.cluster()["generation_tokens"] > tokens + 20, 10, "tokens")
            time.sleep(3 * silent_later)
        wait_for(lambda: "left out" in run("status", head.url)[1], 10, "status")
        assert silent_later or any("cannot connect" in line or "connecting epoch" in line
                                   for line in head.err().splitlines())
        setattr(proxies[1], how, healthy)
        proxies[1].cut()  # what was lost on a connection is lost
        wait_until_whole(head, timeout_s=30)
        assert load.finish() >= 2
        assert set(head.worker_pids()) == {process.pid for process in processes}


def test_new_requests_are_taken_while_members_cannot_connect(expected):
    """One of three has died, and what is said to the one that comes instead is swallowed: its epoch is long in the making."""
    with cluster_behind_proxies(between="workers") as (head, _, processes), contextlib.ExitStack() as stack:
        processes[0].kill()
        proxy, flags = exchange_behind_proxy(stack)
        proxy.carries = 0
        newcomer = stack.enter_context(Process("worker", "--model", MODEL, "--coordinator", f"127.0.0.1:{head.port}",
                                               *flags, "--threads", 1))
        serving, answers = set(), []

        def is_left_out():
            answers.append(Answer(head.url, "another one with the same beginning"))
            serving.add(head.serving())
            time.sleep(0.1)
            return left_out(head) == [newcomer.pid]

        wait_for(is_left_out, 30, "left out")
        for answer in answers:
            assert answer.result() == expected[answer.kind]
        assert serving == {True, False}  # some came when no step could be computed


# --- Who may not take part --------------------------------------------------------------------------------------------


def test_other_weights_cannot_take_the_rank_of_the_dead(tmp_path, expected):
    with cluster_behind_proxies() as (head, proxies, processes):
        load = Load(head.url, expected, clients=2)
        time.sleep(0.3)
        processes[0].kill()
        wait_for(lambda: head.cluster()["holders"]["least"] == 1, 10, "noticed")
        impostor = tmp_path / "impostor"
        shutil.copytree(MODEL, impostor)
        shard = sorted(impostor.glob("*.safetensors"))[-1]
        shard.chmod(0o644)
        data = bytearray(shard.read_bytes())
        data[-100] ^= 1
        shard.write_bytes(data)
        flags = ("--coordinator", f"127.0.0.1:{proxies[0].port}", "--transport", "shm", "--cluster-name",
                 head.cluster_name, "--threads", 1)
        with Process("worker", "--model", impostor, *flags) as stranger:
            assert stranger.exit_code() == 1
            lines = [line for line in stranger.err().splitlines() if line.startswith("shoal worker:")]
            assert len(lines) == 1 and "fingerprint of the weights: the cluster has" in lines[0], stranger.err()
        state = head.cluster()
        assert state["serving"] and state["holders"]["least"] == 1
        with Process("worker", "--model", MODEL, *flags):  # one with the right ones can
            wait_until_whole(head)
            assert load.finish() >= 2


def test_a_worker_of_another_cluster_cannot_take_the_rank_of_the_dead(expected):
    with cluster_behind_proxies() as (head, proxies, processes):
        load = Load(head.url, expected, clients=2)
        processes[0].kill()
        wait_for(lambda: head.cluster()["holders"]["least"] == 1, 10, "noticed")
        flags = ("--model", MODEL, "--coordinator", f"127.0.0.1:{proxies[0].port}", "--transport", "shm",
                 "--threads", 1)
        with Process("worker", *flags, "--cluster-name", "another") as stranger:
            assert stranger.exit_code() == 1
            lines = [line for line in stranger.err().splitlines() if line.startswith("shoal worker:")]
            assert len(lines) == 1, stranger.err()
            assert f"cluster-name: the cluster has '{head.cluster_name}', the worker 'another'" in lines[0]
        with Process("worker", *flags, "--cluster-name", head.cluster_name):
            wait_until_whole(head)
            assert load.finish() >= 2


def test_a_worker_may_dial_the_coordinator_through_another_port(expected):
    with cluster_behind_proxies(between="workers") as (head, proxies, processes):
        processes[0].kill()
        wait_for(lambda: head.cluster()["holders"]["least"] == 1, 10, "noticed")
        with contextlib.ExitStack() as stack:
            detour = Proxy(head.port)
            stack.callback(detour.close)
            stack.enter_context(Process("worker", "--model", MODEL, "--coordinator", f"127.0.0.1:{detour.port}",
                                        "--transport", "grpc", "--threads", 1))
            wait_until_whole(head)
            assert Answer(head.url, "a long prompt").result() == expected["a long prompt"]


def test_more_holders_than_workers_are_refused():
    code, _, err = run("serve", "--model", MODEL, "--workers", 2, "--holders", 3, "--http", "127.0.0.1:0")
    assert code == 1 and "--holders: want 1..2" in err and "got '3'" in err


def test_more_copies_than_workers_can_hold_are_refused():
    flags = ("--model", MODEL, "--workers", 4, "--redundant-experts", 1000000, "--http", "127.0.0.1:0")
    for command in ("serve",), ("coordinator", "--cluster-listen", "127.0.0.1:0"):
        code, _, err = run(*command, *flags)
        said = "redundant_experts 1000000 want 1000016 copies; one of each on 4 workers are 64"
        assert code == 1 and said in err, err


def test_a_placement_with_too_few_holders_is_refused(tmp_path):
    config = json.loads((MODEL / "config.json").read_text())
    layers = [[] if layer < config["first_k_dense_replace"] else
              [[0] if (layer, expert) == (2, 5) else [0, 1] for expert in range(config["n_routed_experts"])]
              for layer in range(config["num_hidden_layers"])]
    file = tmp_path / "placement.json"
    file.write_text(json.dumps({"world_size": 2, "layers": layers}))
    flags = ["--model", MODEL, "--workers", 2, "--placement", file, "--http", "127.0.0.1:0"]
    code, _, err = run("serve", *flags, "--holders", 2)
    assert code == 1 and "layer 2 expert 5 has 1 holders, --holders wants 2" in err
    code, _, err = run("serve", *flags, "--redundant-experts", 4)
    assert code == 1 and "--placement and --redundant-experts" in err


def test_redundant_experts_are_further_copies():
    config = json.loads((MODEL / "config.json").read_text())
    layers = config["num_hidden_layers"] - config["first_k_dense_replace"]
    experts = config["n_routed_experts"]
    with Serve("--holders", 2, "--redundant-experts", 3, workers=3) as cluster:
        state = cluster.cluster()
        assert sum(worker["experts"] for worker in state["workers"]) == layers * (2 * experts + 3)
        assert state["holders"] == {"least": 2, "most": 3, "least_hosts": 1}
        complete(cluster.url)


# --- What an operator sees --------------------------------------------------------------------------------------------


def test_status_tells_what_a_death_would_cost_and_what_the_last_one_did():
    with Serve("--holders", 2, workers=3) as cluster:
        answer = Answer(cluster.url, "three choices, streamed")
        wait_for(lambda: answer.choices, 30, "first text")
        at_stake = lambda state: sum(worker["death"]["sequences"] for worker in state["workers"])
        seen = lambda state: at_stake(state) == 3 and state["waiting"]["dispatch_s"]
        state = wait_for(lambda: next(filter(seen, [cluster.cluster()]), None), 10, "three sequences shown")
        assert all(worker["death"]["experts_left_with_one"] > 0 and not worker["death"]["pauses"]
                   for worker in state["workers"])
        assert len(state["waiting"]["dispatch_s"]) == 3 and len(state["waiting"]["waited_for_s"]) == 3
        code, out, err = run("status", cluster.url)
        assert code == 0 and "any one may die" in out and "sequences," in out, err
        os.kill(state["workers"][1]["pid"], signal.SIGKILL)
        wait_for(lambda: cluster.cluster()["recoveries"], 10, "noticed")
        wait_until_whole(cluster)
        answer.result()
        lost, entered = cluster.cluster()["recoveries"][-2:]
        assert lost["cause"] == "loss" and "rank 1" in lost["who"]
        assert 0 <= lost["decided_ms"] <= lost["fenced_ms"] <= lost["resumed_ms"]
        assert entered["cause"] == "entry" and entered["epoch"] > lost["epoch"] and entered["replayed"] == 0
        code, out, err = run("status", cluster.url)
        assert code == 0 and "loss" in out and "entry" in out, err
        metrics = http.client.HTTPConnection(urllib.parse.urlsplit(cluster.url).netloc, timeout=10)
        metrics.request("GET", "/metrics")
        text = metrics.getresponse().read().decode()
        for name in ('shoal_waiting_seconds{', 'phase="dispatch"', 'shoal_rank_straggler{', 'shoal_expert_holders_least',
                     'shoal_expert_hosts_least', 'shoal_worker_death_tokens{', 'shoal_last_recovery_seconds{'):
            assert name in text, name
        assert get_json(cluster.url, "/cluster")["holders"]["least"] == 2
