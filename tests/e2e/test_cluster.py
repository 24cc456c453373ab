# SPDX-License-Identifier: Apache-2.0
"""Shows that real processes make one cluster: the same bits however many there are and whatever joins them, deaths that
are noticed and mended, no process left behind, and one clear line for whatever cannot be. Everything runs on loopback."""

import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from cluster_process import (MODEL, PROMPT, Head, Process, Serve, Stream, alive, binary, complete, cpu_seconds,
                             descendants, get_json, run, wait_for)

# Any number of workers, not only powers of two.
CLUSTERS = ([("inprocess", n) for n in (1, 2, 3)] + [("shm", n) for n in (1, 2, 3, 4, 8)] +
            [("grpc", n) for n in (2, 3, 4)] + [("mpi", n) for n in (1, 2, 4)])
PROCESS_TRANSPORTS = ("shm", "grpc", "mpi")


def texts(url):
    """What a cluster says, greedily and by seed, to several at once."""
    streams = [Stream(url, max_tokens=48), Stream(url, max_tokens=48, prompt="JULIET:\nO ", ignore_eos=True)]
    streams += [Stream(url, max_tokens=32, temperature=0.8, seed=seed) for seed in (1, 2)]
    for stream in streams:
        assert stream.join().done, stream.error
    return [stream.text for stream in streams]


@pytest.fixture(scope="module")
def expected_texts():
    with Serve(workers=1, transport="inprocess") as cluster:
        return texts(cluster.url)


# --- The same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport,workers", CLUSTERS)
def test_text_does_not_depend_on_workers_or_transport(transport, workers, expected_texts):
    with Serve(workers=workers, transport=transport) as cluster:
        assert texts(cluster.url) == expected_texts
        state = cluster.cluster()
        assert [worker["rank"] for worker in state["workers"]] == list(range(workers))
        assert all(worker["state"] == "serving" for worker in state["workers"])


def test_what_a_cluster_counts_of_its_experts_plans_the_next_one(expected_texts, tmp_path):
    """Every mixture layer counts all rows, K experts each; the next cluster takes the file as it is."""
    with Serve() as cluster:
        assert texts(cluster.url) == expected_texts
        def counted():
            return get_json(cluster.url, "/cluster/expert_load")["load"]
        wait_for(lambda: any(map(sum, counted())), 20, "counts")
        time.sleep(6)  # both workers have said it
        sums = [sum(layer) for layer in counted()]
        load = counted()
        state = cluster.cluster()
        # The last token of a sequence is sampled and never computed; what prefix caches have is not computed again.
        rows = state["prompt_tokens"] - state["prefix_cache_hits"] + state["generation_tokens"]
    with open(f"{MODEL}/config.json") as file:
        config = json.load(file)
    dense, slots = config["first_k_dense_replace"], config["num_experts_per_tok"]
    assert [len(layer) for layer in load] == (
        [0] * dense + [config["n_routed_experts"]] * (config["num_hidden_layers"] - dense))
    # Up to one row for each of the four sequences was planned ahead and dropped; steps of an epoch that ended, as on a
    # machine too busy for heartbeats, count again.
    assert all(layer >= (rows - 4) * slots for layer in sums[dense:]), (sums, rows)
    if state["epoch"] == 1:
        assert len(set(sums[dense:])) == 1 and sums[dense] <= (rows + 4) * slots, (sums, rows)
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"load": load}))
    with Serve("--expert-load", file, "--redundant-experts", 2) as cluster:
        assert texts(cluster.url) == expected_texts
        held = sum(worker["experts"] for worker in cluster.cluster()["workers"])
        assert held == sum(len(layer) + 2 for layer in load if layer)


@pytest.fixture(scope="module")
def score_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    prompts = [[(7 * i + j * j) % 1000 + 3 for j in range(length)] for i, length in enumerate((1, 5, 70, 33))]
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps({"prompts": prompts}))
    return folder, tokens


def score(folder, tokens, *flags):
    out = folder / "out.safetensors"
    code, _, err = run("score", "--model", MODEL, "--tokens", tokens, "--out", out, *flags, timeout_s=120)
    assert code == 0, err
    return out.read_bytes()


def test_scores_do_not_depend_on_workers_or_transport(score_inputs):
    expected = score(*score_inputs)
    for transport, workers in CLUSTERS:
        found = score(*score_inputs, "--workers", workers, "--transport", transport)
        assert found == expected, f"{workers} workers over {transport}"


# --- Death and return -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", PROCESS_TRANSPORTS)
def test_a_killed_worker_is_noticed_and_replaced(transport):
    long = {"max_tokens": 200 if transport == "mpi" else 1500, "ignore_eos": True}  # ranks of mpi that wait spin
    with Serve(workers=3, transport=transport) as cluster:
        before = complete(cluster.url, **long)
        pids, epoch = cluster.worker_pids(), cluster.cluster()["epoch"]
        stream = Stream(cluster.url, **long)
        stream.wait_for_text()
        os.kill(pids[1], signal.SIGKILL)
        # Nobody else holds its experts: all wait until they are loaded again, and go on.
        wait_for(lambda: cluster.cluster()["epoch"] > epoch and cluster.serving(), 60, "serving again")
        paused = [recovery["paused"] for recovery in cluster.cluster()["recoveries"] if recovery["epoch"] > epoch]
        assert any("no holder is left of ranks 1" in reason for reason in paused), paused
        assert stream.join(120).error is None and stream.text == before
        now = cluster.worker_pids()
        assert len(now) == 3 and pids[1] not in now
        if transport != "mpi":  # mpirun ends and starts all its ranks together
            assert {pids[0], pids[2]} < set(now)


def test_a_worker_that_stands_still_is_noticed_and_replaced():
    with Serve(workers=2) as cluster:
        before = complete(cluster.url)
        pids, epoch = cluster.worker_pids(), cluster.cluster()["epoch"]
        stopped_at = time.monotonic()
        os.kill(pids[0], signal.SIGSTOP)
        wait_for(lambda: not cluster.serving() or cluster.cluster()["epoch"] > epoch, 5, "noticed")
        assert time.monotonic() - stopped_at < 1.5  # 0.3 s of silence, seen twice
        # It has 10 s to go on by itself.
        wait_for(cluster.serving, 60, "serving again")
        assert complete(cluster.url) == before
        assert pids[0] not in cluster.worker_pids() and not alive(pids[0])


def kill_and_wait(cluster, pids):
    """Until others serve in their place. A restart takes some 50 ms: too little to be sure to see the pause."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(pids) & set(cluster.worker_pids()), 30, "replaced")
    wait_for(cluster.serving, 30, "serving again")


def test_workers_that_die_again_and_again_do_not_end_the_cluster():
    with Serve(workers=4) as cluster:
        before = complete(cluster.url)
        for round_ in range(4):
            kill_and_wait(cluster, cluster.worker_pids()[round_:round_ + 1])
        kill_and_wait(cluster, cluster.worker_pids())  # all at once
        assert complete(cluster.url) == before


def shared_memory():
    return set(os.listdir("/dev/shm"))


@pytest.mark.parametrize("transport", PROCESS_TRANSPORTS)
@pytest.mark.parametrize("how", (signal.SIGKILL, signal.SIGTERM))
def test_nothing_outlives_the_parent(transport, how):
    before = shared_memory()
    cluster = Serve(workers=3, transport=transport)
    stream = Stream(cluster.url, max_tokens=50)
    children = descendants(cluster.pid)
    assert len(children) >= 3
    cluster.process.send_signal(how)
    cluster.process.wait(30)
    wait_for(lambda: not any(map(alive, children)), 5, f"{children} gone")
    stream.join()
    # Others may use /dev/shm meanwhile: what is ours has our processes' numbers or MPI's name.
    ours = {name for name in shared_memory() - before
            if "shoal" in name or "vader" in name or any(str(pid) in name for pid in [cluster.pid, *children])}
    assert not ours


def test_two_clusters_live_side_by_side(expected_texts):
    with Serve(workers=2) as first, Serve(workers=3) as second:
        assert first.url != second.url
        assert texts(first.url) == expected_texts
        assert texts(second.url) == expected_texts
        os.kill(first.worker_pids()[0], signal.SIGKILL)
        assert complete(second.url) == expected_texts[0][:len(complete(second.url))]
        assert second.cluster()["epoch"] == 1
        wait_for(lambda: first.cluster()["epoch"] > 1 and first.serving(), 30, "serving again")


# --- An orderly end ---------------------------------------------------------------------------------------------------


def test_sigterm_lets_a_stream_finish():
    with Serve(workers=2) as cluster:
        expected = complete(cluster.url, max_tokens=1500, ignore_eos=True)
        stream = Stream(cluster.url, max_tokens=1500, ignore_eos=True)
        stream.wait_for_text()
        cluster.process.send_signal(signal.SIGTERM)
        assert cluster.exit_code() == 0
        stream.join()
        assert stream.done and stream.finish_reason == "length" and stream.text == expected


def test_a_drain_has_its_time():
    with Serve("--drain-timeout-s", 0.2, workers=1) as cluster:
        streams = [Stream(cluster.url, max_tokens=1900, ignore_eos=True) for _ in range(24)]
        for stream in streams:
            stream.wait_for_text()
        begin = time.monotonic()
        assert cluster.terminate() == 0
        assert time.monotonic() - begin < 8
        for stream in streams:
            stream.join()


def test_sigint_of_a_terminal_reaches_only_the_parent():
    # Ctrl-C goes to the whole group of the terminal; workers have groups of their own and are drained.
    with Serve(workers=2) as cluster:
        stream = Stream(cluster.url, max_tokens=1200, ignore_eos=True)
        stream.wait_for_text()
        os.killpg(cluster.pid, signal.SIGINT)
        assert cluster.exit_code() == 0
        assert stream.join().finish_reason == "length"


def test_a_signal_while_loading_ends_it():
    cluster = Serve(workers=2, wait=False)
    cluster.wait_for_text("configuration")
    assert cluster.terminate(20) in (0, -signal.SIGTERM)  # before it has taken over signals, the kernel's way


# --- What it costs ----------------------------------------------------------------------------------------------------


def test_an_idle_cluster_is_nearly_silent():
    with Serve(workers=4) as cluster:
        complete(cluster.url)
        time.sleep(0.5)
        processes = [cluster.pid, *descendants(cluster.pid)]
        before = sum(map(cpu_seconds, processes))
        time.sleep(3)
        used = sum(map(cpu_seconds, processes)) - before
        assert used / 3 < 0.10, f"{used / 3:.1%} of a core"


def test_first_token_within_five_seconds_of_the_start():
    with Serve(workers=1):
        pass  # files are in the page cache now
    begin = time.monotonic()
    with Serve(workers=4) as cluster:
        stream = Stream(cluster.url, max_tokens=5)
        stream.wait_for_text()
        assert time.monotonic() - begin < 5


# --- By hand ----------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def coordinator(port, *flags, workers=2):
    return Head("coordinator", "--model", MODEL, "--workers", workers, "--cluster-listen", f"127.0.0.1:{port}",
                "--http", "127.0.0.1:0", *flags)


def worker(port, *flags, model=MODEL, transport="shm"):
    return Process("worker", "--model", model, "--coordinator", f"127.0.0.1:{port}", "--transport", transport, *flags)


@pytest.mark.parametrize("transport", ("shm", "grpc"))
def test_coordinator_and_workers_started_by_hand(transport, expected_texts):
    port = free_port()
    # Workers may come first: they dial until somebody answers.
    with worker(port, transport=transport) as first, worker(port, transport=transport):
        first.wait_for_text("dialling again")
        with coordinator(port) as head:
            head.wait_until_listening()
            assert texts(head.url) == expected_texts
            first.kill()
            wait_for(lambda: not head.serving(), 2, "noticed")
            waiting = Stream(head.url, max_tokens=20)  # for somebody who holds the lost experts
            time.sleep(0.2)
            assert not waiting.text and not waiting.ended_at
            with worker(port, transport=transport):
                wait_for(head.serving, 30, "serving again")
                assert waiting.join().error is None and waiting.done and waiting.text
                assert texts(head.url) == expected_texts
                assert head.terminate() == 0


def test_workers_wait_for_another_coordinator_with_their_weights_loaded(expected_texts):
    port = free_port()
    with worker(port) as first, worker(port) as second:
        with coordinator(port) as head:
            head.wait_until_listening()
            head.kill()
        with coordinator(port) as head:
            head.wait_until_listening()
            assert texts(head.url) == expected_texts
            assert first.err().count("loaded") == second.err().count("loaded") == 1
            assert sorted(head.worker_pids()) == sorted([first.pid, second.pid])
        assert first.terminate() == 0


def test_a_worker_that_leaves_in_order_is_noticed():
    port = free_port()
    with coordinator(port) as head, worker(port) as first, worker(port):
        head.wait_until_listening()
        assert first.terminate() == 0
        wait_for(lambda: not head.serving(), 2, "noticed")


def test_workers_under_mpirun_by_hand(expected_texts):
    port = free_port()
    with coordinator(port, workers=3) as head:
        launcher = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "3")
        with Process("worker", "--model", MODEL, "--coordinator", f"127.0.0.1:{port}", "--transport", "mpi",
                     launcher=launcher) as ranks:
            head.wait_until_listening()
            assert texts(head.url) == expected_texts
            head.terminate()
            ranks.terminate()


def tampered_model(folder):
    """The bundled model with one weight changed."""
    model = folder / "tampered"
    shutil.copytree(MODEL, model)
    shard = sorted(model.glob("*.safetensors"))[-1]
    os.chmod(shard, 0o644)
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    return model


def test_a_worker_that_differs_is_refused_with_both_values(tmp_path):
    port = free_port()
    with coordinator(port) as head, worker(port), worker(port):
        head.wait_until_listening()
        before = complete(head.url)
        for flags, model, what in (
                ((), tampered_model(tmp_path), "fingerprint of the weights"),
                (("--backend", "reference"), MODEL, "numerics"),
                (("--block-tokens", "32"), MODEL, "block-tokens: the cluster has '64', the worker '32'"),
                (("--max-batch-rows", "256"), MODEL, "max-batch-rows: the cluster has '512', the worker '256'")):
            with worker(port, *flags, model=model) as stranger:
                assert stranger.exit_code() == 1
                lines = [line for line in stranger.err().splitlines() if line.startswith("shoal worker:")]
                assert len(lines) == 1 and what in lines[0], stranger.err()
                assert "the cluster has" in lines[0] and "the worker" in lines[0]
        with worker(port, transport="grpc") as stranger:
            assert stranger.exit_code() == 1
            assert "transport: the cluster has 'shm', the worker 'grpc'" in stranger.err()
        assert head.serving() and complete(head.url) == before


# --- Configuration ----------------------------------------------------------------------------------------------------


def test_a_yaml_file_is_as_good_as_flags(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(f"model: {MODEL}\nworkers: 2\nhttp: 127.0.0.1:0\nserved-model-name: bard\ncache-memory: 8M\n")
    with Head("serve", "--config", file, "--workers", "3") as cluster:
        cluster.wait_until_listening()
        assert get_json(cluster.url, "/v1/models")["data"][0]["id"] == "bard"
        state = cluster.cluster()
        assert len(state["workers"]) == 3  # flags win
        assert state["workers"][0]["blocks_total"] < 200
        assert "served-model-name: bard" in cluster.err() and "workers: 3" in cluster.err()  # printed whole


def test_a_placement_file_changes_where_experts_are_and_nothing_else(tmp_path, expected_texts):
    config = json.loads((MODEL / "config.json").read_text())
    experts, dense = config["n_routed_experts"], config["first_k_dense_replace"]
    layers = [[] if layer < dense else [[0, 1] if expert == 0 else [(expert * 7 + layer) % 2] for expert in range(experts)]
              for layer in range(config["num_hidden_layers"])]
    file = tmp_path / "placement.json"
    file.write_text(json.dumps({"world_size": 2, "layers": layers}))
    with Serve("--placement", file, workers=2) as cluster:
        assert texts(cluster.url) == expected_texts
        held = [worker["experts"] for worker in cluster.cluster()["workers"]]
        assert sum(held) == sum(len(ranks) for layer in layers for ranks in layer)
    code, _, err = run("serve", "--model", MODEL, "--workers", 3, "--placement", file, "--http", "127.0.0.1:0")
    assert code == 1 and "is for 2 workers, --workers says 3" in err


BAD_COMMANDS = [
    (["serve"], 1, "--model"),
    (["serve", "--model", "/no/such/dir"], 1, "/no/such/dir"),
    (["serve", "--model", MODEL, "--workers", "0"], 1, "--workers: want 1..4096, got '0'"),
    (["serve", "--model", MODEL, "--workers", "1000"], 1, "--workers 1000"),
    (["serve", "--model", MODEL, "--workers", "x"], 2, "--workers"),
    (["serve", "--model", MODEL, "--transport", "carrier-pigeon"], 1, "--transport"),
    (["serve", "--model", MODEL, "--nonsense"], 2, "--nonsense"),
    (["serve", "--model", MODEL, "--config", "/no/file.yaml"], 1, "/no/file.yaml"),
    (["serve", "--model", MODEL, "--placement", "/no/placement.json"], 1, "/no/placement.json"),
    (["serve", "--model", MODEL, "--expert-load", "/no/load.json"], 1, "/no/load.json"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:99999"], 1, "--http: '127.0.0.1:99999' is no address"),
    (["serve", "--model", MODEL, "--http", "0.0.0.0:0"], 1, "--insecure"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--cluster-listen", "0.0.0.0:0"], 1, "--cluster-cert"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--api-keys", "/no/keys"], 1, "/no/keys"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--tls-cert", "/no/cert", "--tls-key", "/no/key"], 1, "/no/"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--cluster-cert", "/no/a", "--cluster-key", "/no/b",
      "--cluster-ca", "/no/c"], 1, "/no/"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--cache-memory", "900T"], 1, "too little memory"),
    (["serve", "--model", MODEL, "--http", "127.0.0.1:0", "--cache-memory", "1K"], 1, "one block"),
    (["coordinator", "--model", MODEL], 1, "--cluster-listen"),
    (["worker", "--model", MODEL], 1, "--coordinator"),
    (["worker", "--model", "/no/such/dir", "--coordinator", "127.0.0.1:1"], 1, "/no/such/dir"),
    (["worker", "--model", MODEL, "--coordinator", "here"], 1, "--coordinator: 'here' is no address"),
    (["run", "--model", MODEL, "--prompt", "not UTF-8: \udcff"], 1, "--prompt: not valid UTF-8"),
    (["status", "127.0.0.1:1"], 1, "refused"),
    (["status", "nonsense"], 1, "nonsense"),
    (["frobnicate"], 2, "frobnicate"),
]


@pytest.mark.parametrize("arguments,code,message", BAD_COMMANDS, ids=lambda value: " ".join(map(str, value))
                         if isinstance(value, list) else "")
def test_bad_commands_end_with_one_clear_error(arguments, code, message):
    found, out, err = run(*arguments)
    assert found == code, err
    assert message in err and "listening" not in out
    if code == 1:
        assert sum(line.startswith("shoal ") for line in err.splitlines()) == 1, err


def test_too_little_memory_shows_the_ledger():
    _, _, err = run("serve", "--model", MODEL, "--workers", 2, "--http", "127.0.0.1:0", "--cache-memory", "900T")
    for line in ("2 workers need", "weights", "cache", "activations", "logits", "exchange buffers", "together"):
        assert line in err, err


def test_ports_in_use_are_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flag in ("--http", "--cluster-listen"):
            arguments = ["serve", "--model", MODEL, "--http", "127.0.0.1:0", flag, f"127.0.0.1:{port}"]
            if flag == "--http":
                del arguments[3:5]
            code, _, err = run(*arguments)
            assert code == 1 and str(port) in err and "in use" in err, err


def test_a_torn_shard_ends_the_start_with_one_error(tmp_path):
    model = tmp_path / "torn"
    shutil.copytree(MODEL, model)
    shard = sorted(model.glob("*.safetensors"))[0]
    os.chmod(shard, 0o644)
    shard.write_bytes(shard.read_bytes()[:-1000])
    code, _, err = run("serve", "--model", model, "--workers", 2, "--http", "127.0.0.1:0")
    assert code == 1 and shard.name in err


def test_a_model_that_does_not_load_is_said_once(tmp_path):
    # Shapes that contradict config.json are found by the workers, when they load.
    model = tmp_path / "other"
    shutil.copytree(MODEL, model)
    config = json.loads((model / "config.json").read_text())
    config["moe_intermediate_size"] *= 2
    os.chmod(model / "config.json", 0o644)
    (model / "config.json").write_text(json.dumps(config))
    code, _, err = run("serve", "--model", model, "--workers", 3, "--http", "127.0.0.1:0")
    assert code == 1
    said = [line for line in err.splitlines() if line.startswith("shoal ")]
    assert len(said) == 1 and "want" in said[0] and "mlp.experts" in said[0], err


def test_every_subcommand_has_help():
    for command in ("serve", "coordinator", "worker", "status"):
        code, out, _ = run(command, "--help")
        assert code == 0 and command in out or "--model" in out
        assert "--supervised" not in out


def test_status_is_a_table_for_people():
    with Serve(workers=2) as cluster:
        complete(cluster.url)
        for address in (cluster.url, cluster.url.removeprefix("http://")):
            code, out, err = run("status", address)
            assert code == 0, err
            assert "serving, epoch 1" in out and "blocks used" in out
            for rank, pid in enumerate(cluster.worker_pids()):
                row = next(line for line in out.splitlines() if str(pid) in line)
                assert row.split()[:2] == [str(rank), "serving"]


def test_status_warns_of_experts_that_are_on_one_host_only():
    state = {"serving": True, "epoch": 3, "holders": {"least": 2, "most": 2, "least_hosts": 1},
             "workers": [{"rank": rank, "state": "serving", "host": f"host{rank}"} for rank in range(2)]}

    class Cluster(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(state).encode())

    def status():
        server = http.server.HTTPServer(("127.0.0.1", 0), Cluster)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        code, out, err = run("status", f"127.0.0.1:{server.server_port}")
        thread.join()
        server.server_close()
        assert code == 0 and "held by 2 workers: any one may die" in out, err
        return out

    warning = "requests would pause if it died"
    assert warning in status()
    state["holders"]["least_hosts"] = 2
    assert warning not in status()
    # With a single host there is nothing better to have.
    state["holders"]["least_hosts"] = 1
    state["workers"][1]["host"] = "host0"
    assert warning not in status()


# --- Mutual TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two authorities; a certificate by each."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)

    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("ours", "theirs"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj",
                f"/CN={name}-ca", "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key",
                "-CAcreateserial", "-days", 2, "-extfile", "san", "-out", f"{name}.pem")
    return folder


def test_status_says_what_an_https_server_wants(certificates):
    # It says its URL as https, which the other helpers do not speak.
    port = free_port()
    flags = ["--tls-cert", certificates / "ours.pem", "--tls-key", certificates / "ours.key"]
    with Process("serve", "--model", MODEL, "--workers", 1, "--http", f"127.0.0.1:{port}", *flags) as server:
        server.wait_for_text("listening on https://")
        code, _, err = run("status", f"127.0.0.1:{port}")
        assert code == 1 and f"if it speaks TLS, ask for https://127.0.0.1:{port}" in err, err
        code, _, err = run("status", f"https://127.0.0.1:{port}")
        assert code == 1 and "--ca FILE names an authority to trust" in err, err
        code, out, err = run("status", f"https://127.0.0.1:{port}", "--ca", certificates / "ours-ca.pem")
        assert code == 0 and "serving, epoch 1" in out, err


def tls_flags(folder, name, authority="ours"):
    return ["--cluster-cert", folder / f"{name}.pem", "--cluster-key", folder / f"{name}.key", "--cluster-ca",
            folder / f"{authority}-ca.pem"]


@pytest.mark.parametrize("transport", ("shm", "grpc"))
def test_a_cluster_over_mutual_tls(transport, certificates, expected_texts):
    with Serve(*tls_flags(certificates, "ours"), workers=2, transport=transport) as cluster:
        assert texts(cluster.url) == expected_texts


def test_workers_without_our_certificate_stay_outside(certificates):
    port = free_port()
    with coordinator(port, *tls_flags(certificates, "ours"), workers=1) as head:
        head.wait_for_text("waiting for 1 workers")
        with worker(port) as plain, worker(port, *tls_flags(certificates, "theirs")) as stranger:
            plain.wait_for_text("dialling again")
            stranger.wait_for_text("dialling again")
            time.sleep(0.5)
            assert "listening" not in head.out()
        with worker(port, *tls_flags(certificates, "ours")):
            head.wait_until_listening()
            complete(head.url)
