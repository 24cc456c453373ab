# SPDX-License-Identifier: Apache-2.0
"""Shows that the API behaves as HTTP to clients of every kind: curl, keep-alive, bytes that are no
HTTP, readers that never read, clients that vanish, keys, TLS, a full queue, a server that leaves."""

import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.parse

import openai
import pytest

from api_process import MODEL, ShoalServe, binary, blocks_used, http_json, running_sequences, wait_for


def place(url):
    parts = urllib.parse.urlsplit(url)
    return parts.hostname, parts.port


def send_raw(url, data, timeout=10, half_close=True):
    """Sends bytes, returns everything that comes back."""
    with socket.create_connection(place(url), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server may have closed on us already
        received = b""
        while True:
            try:
                more = connection.recv(65536)
            except ConnectionResetError:
                return received
            if not more:
                return received
            received += more


def post_bytes(path, body, headers=()):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}",
             "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def curl(*arguments):
    result = subprocess.run(["curl", "-sS", "-m", "60", *arguments], capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- curl -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_completes_and_streams(url):
    body = {"prompt": "KING RICHARD:", "max_tokens": 16, "temperature": 0}
    answer = json.loads(curl(f"{url}/v1/completions", "-H", "Content-Type: application/json", "-d",
                             json.dumps(body)))
    streamed = curl("-N", "-i", f"{url}/v1/completions", "-H", "Content-Type: application/json",
                    "-d", json.dumps({**body, "stream": True}))
    header, events = streamed.replace("\r\n", "\n").split("\n\n", 1)
    assert "text/event-stream" in header.lower()
    events = [event for event in events.split("\n\n") if event]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    text = "".join(json.loads(event[6:])["choices"][0]["text"] for event in events[:-1])
    assert text == answer["choices"][0]["text"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_sends_a_large_body_after_100_continue(url):
    body = json.dumps({"prompt": "x" * 2_000_000})
    answer = subprocess.run(["curl", "-sS", "-m", "60", "-H", "Expect: 100-continue", "-H",
                             "Content-Type: application/json", f"{url}/v1/completions", "-d", "@-"], input=body, capture_output=True,
                            text=True, check=True).stdout
    assert json.loads(answer)["error"]["code"] == "context_length_exceeded"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_is_told_to_send_json(url):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        for headers in ((), ("-H", "Content-Type: text/plain")):
            status, answer = curl(url + path, *headers, "-d", '{"prompt": "a"}', "-w",
                                  "\n%{http_code}").rsplit("\n", 1)[::-1]
            assert status == "415"
            assert "-H 'Content-Type: application/json'" in json.loads(answer)["error"]["message"]
    # Who does not say what it sends is taken to send JSON.
    assert json.loads(curl(url + "/tokenize", "-H", "Content-Type:", "-d", '{"prompt": "a"}'))["count"]


@pytest.mark.parametrize("type_, status", [
    ("application/json", 200), ("Application/JSON; charset=UTF-8", 200),
    ('application/json;charset="utf-8"', 200), ("application/json; charset=latin1", 415),
    ("application/jsonl", 415), ("application/x-www-form-urlencoded", 415),
    ("multipart/form-data; boundary=x", 415)])
def test_content_types(url, type_, status):
    assert http_json(url + "/tokenize", {"prompt": "a"}, {"Content-Type": type_})[0] == status


def test_compressed_bodies_are_refused(url):
    status, headers, answer = http_json(url + "/tokenize", {"prompt": "a"},
                                        {"Content-Encoding": "gzip"})
    assert status == 415 and "gzip" in answer["error"]["message"]
    assert headers["Accept-Encoding"] == "identity"
    assert http_json(url + "/tokenize", {"prompt": "a"}, {"Content-Encoding": "identity"})[0] == 200


def test_duplicate_keys_are_named(url):
    for path, body, key in (
            ("/v1/completions", b'{"prompt": "a", "max_tokens": 1, "prompt": "b"}', "prompt"),
            ("/v1/chat/completions",
             b'{"messages": [{"role": "user", "content": "a", "role": "system"}]}', "role"),
            ("/tokenize", b'{"prompt": "a", "pr\\u006fmpt": "b"}', "prompt")):
        answer = send_raw(url, post_bytes(path, body))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
        assert error["param"] == key and error["code"] == "duplicate_key"


def test_response_format(url):
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for path, body in (("/v1/completions", {"prompt": "a", "max_tokens": 2}),
                       ("/v1/chat/completions", chat)):
        assert http_json(url + path, {**body, "response_format": {"type": "text"}})[0] == 200
        status, _, answer = http_json(url + path, {**body, "response_format": {"type": "json_object"}})
        assert status == 400 and answer["error"]["param"] == "response_format"
        assert "text" in answer["error"]["message"]


# --- The other paths ------------------------------------------------------------------------------


def test_state_and_version(url):
    status, headers, _ = http_json(url + "/health")
    assert status == 200 and headers["x-request-id"]
    assert http_json(url + "/ready")[0] == 200
    assert http_json(url + "/version")[2]["version"]
    cluster = http_json(url + "/cluster")[2]
    assert cluster["epoch"] >= 1
    for rank, worker in enumerate(cluster["workers"]):
        assert worker["rank"] == rank
        assert worker["state"] == "serving"
        assert worker["pid"] > 0 and worker["host"]
        assert worker["experts"] > 0
        assert 0 <= worker["blocks_used"] <= worker["blocks_total"] > 0
        assert worker["running_sequences"] >= 0 and worker["tokens_per_s"] >= 0
    assert http_json(url + "/no/such/path")[0] == 404
    assert http_json(url + "/v1/completions")[0] == 405


def metrics(url):
    connection = http.client.HTTPConnection(*place(url), timeout=30)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type").startswith("text/plain; version=0.0.4")
    values = {}
    for line in answer.read().decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name.split("{")[0]] = values.get(name.split("{")[0], 0) + float(value)
    return values


def test_metrics_count(url):
    before = metrics(url)
    http_json(url + "/v1/completions",
              {"prompt": "KING RICHARD:", "max_tokens": 9, "ignore_eos": True})
    assert wait_for(lambda: metrics(url)["vllm:generation_tokens_total"]
                    >= before["vllm:generation_tokens_total"] + 9)
    after = metrics(url)
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds",
                 "request_queue_time_seconds", "request_prefill_time_seconds",
                 "request_decode_time_seconds"):
        assert after[f"vllm:{name}_count"] == before[f"vllm:{name}_count"] + 1, name
        assert after[f"shoal_{name}_count"] == after[f"vllm:{name}_count"]
    assert (after["vllm:inter_token_latency_seconds_count"]
            == before["vllm:inter_token_latency_seconds_count"] + 8)
    assert after["vllm:prompt_tokens_total"] > before["vllm:prompt_tokens_total"]
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
                 "prefix_cache_queries", "prefix_cache_hits"):
        assert f"vllm:{name}" in after
    # The block of this request was not full, so nobody can use what it holds any more.
    assert wait_for(lambda: metrics(url)["vllm:kv_block_lifetime_seconds_count"]
                    > before["vllm:kv_block_lifetime_seconds_count"])
    assert metrics(url)["vllm:kv_block_lifetime_seconds_sum"] < 3600


# --- HTTP, well-formed and not --------------------------------------------------------------------


def test_keep_alive_and_pipelining(url):
    connection = http.client.HTTPConnection(*place(url), timeout=30)
    ports = set()
    for _ in range(3):
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 2}))
        ports.add(connection.sock.getsockname()[1])
        assert connection.getresponse().read()
    assert len(ports) == 1
    # The target may name the server, as it does for proxies.
    assert b"200 OK" in send_raw(
        url, b"GET http://some.host/version?a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    one = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert send_raw(url, one * 20 + last, half_close=False).count(b"HTTP/1.1 200 OK") == 21


BAD_BYTES = {
    "nothing": (b"", None),
    "line noise": (bytes(range(256)) * 4, 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),
    "no version": (b"GET /health\r\n\r\n", 400),
    "another version": (b"GET /health HTTP/3.0\r\n\r\n", 505),
    "a header without colon": (b"GET /health HTTP/1.1\r\nHost\r\n\r\n", 400),
    "two lengths": (b"POST /tokenize HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                    400),
    "length and chunks": (b"POST /tokenize HTTP/1.1\r\nContent-Length: 3\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (b"POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
    "a bad chunk": (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a huge header": (b"GET /health HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "a huge body": (b"POST /tokenize HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", 413),
    "half a header": (b"POST /tokenize HTTP/1.1\r\nContent-", None),
    "half a body": (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", None),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no JSON": (post_bytes("/v1/completions", b"prompt=hello"), 400),
    "an empty body": (post_bytes("/v1/completions", b""), 400),
    "a JSON list": (post_bytes("/v1/completions", b"[]"), 400),
    "cut JSON": (post_bytes("/v1/completions", b'{"prompt": "abc'), 400),
    "bad UTF-8": (post_bytes("/v1/completions", b'{"prompt": "\xff\xfe\x80"}'), 400),
    "half a surrogate": (post_bytes("/v1/completions", b'{"prompt": "\\ud800"}'), 400),
    "bad UTF-8 in a field's name": (post_bytes("/v1/completions", b'{"\xff": "a"}'), 400),
    "deep nesting": (post_bytes("/v1/completions", b'{"prompt": ' + b"[" * 1_000_000), 400),
    "deep nesting in chat": (post_bytes("/v1/chat/completions", b'{"a":' * 200_000), 400),
    "a huge number": (post_bytes("/v1/completions", b'{"prompt":"a","temperature":1e999}'), 400),
    "infinite penalty": (post_bytes("/v1/completions",
                                    b'{"prompt":"a","presence_penalty":Infinity}'), 400),
    "wrong types": (post_bytes("/v1/completions", b'{"prompt": {"a": [1, {"b": null}]}}'), 400),
    "wrong types in chat": (post_bytes("/v1/chat/completions", b'{"messages": {"role": 1}}'), 400),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_malformed_input(url, name):
    data, status = BAD_BYTES[name]
    answer = send_raw(url, data)
    if status is None:
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    else:
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert http_json(url + "/health")[0] == 200


def test_text_of_every_kind_is_served(url):
    for text in ("", "\x00", "\u2028", "é" * 100, "🎉" * 50, "\ufffd", "<｜begin▁of▁sentence｜>",
                 "\\u0000\"'</script>", "\r\n\t", "a\u0301"):
        status, _, answer = http_json(url + "/v1/completions", {"prompt": text, "max_tokens": 2})
        assert status == 200, answer
        status, _, answer = http_json(url + "/v1/chat/completions", {
            "messages": [{"role": "user", "content": text}], "max_tokens": 2})
        assert status == 200, answer


def test_others_go_on_beside_a_stalled_request(url):
    with socket.create_connection(place(url)) as header, socket.create_connection(place(url)) as body:
        header.sendall(b"POST /v1/completions HTT")
        body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        begin = time.monotonic()
        for _ in range(5):
            assert http_json(url + "/v1/completions", {"prompt": "a", "max_tokens": 2})[0] == 200
        assert time.monotonic() - begin < 20


def test_a_reader_that_never_reads_is_cut(url):
    assert wait_for(lambda: running_sequences(url) == 0)
    before = blocks_used(url)
    body = json.dumps({"prompt": "KING RICHARD:", "max_tokens": 1900, "n": 8, "logprobs": 20,
                       "stream": True, "ignore_eos": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(place(url))
        connection.sendall(post_bytes("/v1/completions", body))
        assert wait_for(lambda: running_sequences(url) == 8)
        # About 40 MB would have to wait for this reader.
        assert wait_for(lambda: running_sequences(url) == 0, 120)
        received = b""
        try:
            while more := connection.recv(1 << 20):
                received += more
        except ConnectionResetError:
            pass
        assert b"[DONE]" not in received
        # What it can still read ends with the reason.
        last = received[received.rindex(b"data: ") + 6:].split(b"\n\n")[0]
        assert json.loads(last)["error"]["code"] == "slow_client"
    assert wait_for(lambda: blocks_used(url) <= before, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_blocks(url, stream):
    assert wait_for(lambda: running_sequences(url) == 0)
    before = blocks_used(url)
    body = json.dumps({"prompt": ["KING RICHARD: " * 30] * 3, "max_tokens": 1000, "stream": stream,
                       "ignore_eos": True}).encode()
    with socket.create_connection(place(url)) as connection:
        connection.sendall(post_bytes("/v1/completions", body))
        assert wait_for(lambda: running_sequences(url) == 3)
        assert blocks_used(url) > before
        # Gone without a word: a reset, as from a killed process.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert wait_for(lambda: running_sequences(url) == 0, 5)
    assert wait_for(lambda: blocks_used(url) <= before, 5)


# --- Servers with flags of their own --------------------------------------------------------------

needs_binary = pytest.mark.skipif(
    "SHOAL_URL" in os.environ and "SHOAL_BINARY" not in os.environ,
    reason="needs a server with other flags; SHOAL_URL points to somebody else's")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True,
                   capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@needs_binary
def test_keys_and_tls(tmp_path, certificate):
    keys = tmp_path / "keys"
    keys.write_text("# who may ask\nsesame-one\nsesame-two\n")
    cert, key = certificate
    # With both, listening for other machines needs no --insecure.
    with ShoalServe("--tls-cert", str(cert), "--tls-key", str(key), "--api-keys", str(keys),
                    http="0.0.0.0:0", workers=1) as server:
        port = place(server.url)[1]
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=cert)

        def client(api_key):
            http_client = openai.DefaultHttpxClient(verify=context)
            return openai.OpenAI(base_url=f"https://localhost:{port}/v1", api_key=api_key,
                                 max_retries=0, http_client=http_client)

        for api_key in ("sesame-one", "sesame-two"):
            chunks = list(client(api_key).completions.create(
                model="shoal-tiny", prompt="KING RICHARD:", max_tokens=8, stream=True))
            assert chunks
        for api_key in ("sesame", "sesame-one2", "x"):
            with pytest.raises(openai.AuthenticationError) as error:
                client(api_key).completions.create(model="shoal-tiny", prompt="x")
            assert error.value.code == "invalid_api_key"

        def status(path, headers=None):
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
            connection.request("GET", path, headers=headers or {})
            return connection.getresponse().status

        assert status("/health") == status("/ready") == 200
        assert status("/cluster") == status("/metrics") == status("/v1/models") == 401
        assert status("/cluster", {"Authorization": "Bearer sesame-two"}) == 200
        # Plain HTTP, and noise, to a TLS port.
        for data in (b"GET /health HTTP/1.1\r\n\r\n", os.urandom(2000)):
            assert b"200 OK" not in send_raw(f"http://127.0.0.1:{port}", data)
        assert status("/health") == 200


@needs_binary
def test_listening_for_others_needs_keys_and_tls(certificate):
    cert, key = certificate
    for flags in ((), ("--tls-cert", str(cert), "--tls-key", str(key))):
        with pytest.raises(RuntimeError, match="insecure"):
            ShoalServe(*flags, http="0.0.0.0:0", workers=1)
    with ShoalServe("--insecure", http="0.0.0.0:0", workers=1) as server:
        assert http_json(f"http://127.0.0.1:{place(server.url)[1]}/health")[0] == 200


@needs_binary
def test_a_full_queue_answers_429(tmp_path):
    with ShoalServe("--max-queue", "2", "--max-running", "1", workers=1) as server:
        long = {"prompt": "KING RICHARD:", "max_tokens": 1500, "ignore_eos": True}

        def ask(_):
            status, headers, answer = http_json(server.url + "/v1/completions", long)
            return status, headers.get("Retry-After"), answer

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        refused = [answer for answer in answers if answer[0] == 429]
        assert refused and len(refused) < 12
        assert {answer[0] for answer in answers} == {200, 429}
        for _, retry_after, answer in refused:
            assert int(retry_after) >= 1
            assert answer["error"]["type"] == "rate_limit_error"
        assert http_json(server.url + "/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
        # Those that waited did so visibly.
        assert metrics(server.url)["vllm:request_queue_time_seconds_sum"] > 0


@needs_binary
def test_sigterm_drains():
    with ShoalServe(workers=1) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)
        stream = client.completions.create(model="shoal-tiny", prompt="KING RICHARD:",
                                           max_tokens=300, stream=True,
                                           extra_body={"ignore_eos": True})
        next(stream)
        server.terminate()
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert server.process.wait(30) == 0
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


LONG = {"prompt": "KING RICHARD:", "max_tokens": 1900, "ignore_eos": True, "logprobs": 20, "n": 8}


@needs_binary
def test_a_drain_is_visible_and_ends_with_the_last_request():
    with ShoalServe("--drain-timeout-s", "60") as server:
        with socket.create_connection(place(server.url)) as kept, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # idle from here on
            task = {**LONG, "max_tokens": 900}
            running = pool.submit(http_json, server.url + "/v1/completions", task)
            assert wait_for(lambda: running_sequences(server.url) == 8)
            server.terminate()
            assert wait_for(
                lambda: http_json(server.url + "/health")[2] == {"status": "draining"}, 5)
            # The coordinator looks at the cluster 20 times a second.
            assert wait_for(lambda: {worker["state"] for worker in http_json(
                server.url + "/cluster")[2]["workers"]} == {"draining"}, 1)
            status, headers, answer = http_json(server.url + "/ready")
            assert status == 503 and int(headers["Retry-After"]) >= 1
            assert answer["error"]["code"] == "draining"
            for path, body in (("/v1/completions", {"prompt": "a"}),
                               ("/v1/chat/completions",
                                {"messages": [{"role": "user", "content": "a"}]})):
                status, headers, answer = http_json(server.url + path, body)
                assert status == 503 and int(headers["Retry-After"]) >= 1
                assert answer["error"]["type"] == "server_error"
                assert "draining" in answer["error"]["message"]
            assert metrics(server.url)["vllm:num_requests_running"] > 0
            assert http_json(server.url + "/tokenize", {"prompt": "a"})[0] == 200
            status, _, answer = running.result(60)
            assert status == 200
            assert answer["usage"]["completion_tokens"] == 8 * task["max_tokens"]
            assert server.process.wait(10) == 0


@needs_binary
def test_what_is_not_done_when_the_drain_ends_is_told_so():
    with ShoalServe("--drain-timeout-s", "0.3", workers=1) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)
        stream = client.completions.create(model="shoal-tiny", stream=True, prompt="KING RICHARD:",
                                           max_tokens=1900, n=8, extra_body={"ignore_eos": True})
        next(stream)
        server.terminate()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert server.process.wait(10) == 0
        line = [line for line in server.log().splitlines() if "tokens (" in line][-1]
        assert " 503 error:" in line and "time to drain" in line and "499" not in line


@needs_binary
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second):
    with ShoalServe("--drain-timeout-s", "600") as server:
        workers = [worker["pid"] for worker in http_json(server.url + "/cluster")[2]["workers"]]
        with socket.create_connection(place(server.url)) as connection:
            connection.sendall(post_bytes("/v1/completions", json.dumps(LONG).encode()))
            assert wait_for(lambda: running_sequences(server.url) == 8)
            server.terminate()
            assert wait_for(
                lambda: http_json(server.url + "/health")[2] == {"status": "draining"}, 5)
            server.process.send_signal(second)
            assert server.process.wait(2) == 128 + second
        assert wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), 5)


@needs_binary
def test_a_slow_client_is_not_logged_as_gone():
    with ShoalServe(workers=1) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(place(server.url))
        connection.sendall(post_bytes("/v1/completions",
                                      json.dumps({**LONG, "stream": True}).encode()))
        assert wait_for(lambda: running_sequences(server.url) == 8)
        assert wait_for(lambda: running_sequences(server.url) == 0, 120)
        line = [line for line in server.log().splitlines() if "tokens (" in line][-1]
        assert " 408 error:" in line and "waited to be read" in line


# --- Clients that close only their half -----------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_client_gets_its_answer(url, stream):
    body = json.dumps({"prompt": "KING RICHARD:", "max_tokens": 1200, "ignore_eos": True,
                       "stream": stream}).encode()
    answer = send_raw(url, post_bytes("/v1/completions", body), timeout=60)
    # It may be asked to go on waiting.
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"[DONE]" if stream else b'"completion_tokens":1200') in answer


def test_a_client_that_closes_without_a_reset_is_gone(url):
    assert wait_for(lambda: running_sequences(url) == 0)
    for stream in (False, True):
        with socket.create_connection(place(url)) as connection:
            connection.sendall(post_bytes("/v1/completions",
                                          json.dumps({**LONG, "stream": stream}).encode()))
            assert wait_for(lambda: running_sequences(url) == 8)
        assert wait_for(lambda: running_sequences(url) == 0, 1)


@needs_binary
def test_a_log_that_nobody_reads_stops_nobody():
    process = subprocess.Popen([binary(), "serve", "--model", str(MODEL), "--workers", "1",
                                "--http", "127.0.0.1:0"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        for line in process.stdout:
            if "listening on http" in line:
                url = line.split("listening on ", 1)[1].split()[0]
                break
        connection = http.client.HTTPConnection(*place(url), timeout=20)
        name = {"x-request-id": "x" * 120}
        for _ in range(500):  # 64 KB is what a pipe holds
            connection.request("POST", "/v1/completions",
                               json.dumps({"prompt": "a", "max_tokens": 1}), name)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@needs_binary
def test_thoughts_are_split_from_the_answer():
    # The bundled model knows no thoughts; under R1's format all it says is one, never closed.
    with ShoalServe("--chat-format", "r1", workers=1) as server:
        body = {"messages": [{"role": "user", "content": "Who goes there?"}], "max_tokens": 12,
                "temperature": 0}
        message = http_json(server.url + "/v1/chat/completions", body)[2]["choices"][0]["message"]
        assert message["reasoning_content"] and message["content"] == ""


def start_failing(*flags):
    result = subprocess.run([binary(), "serve", "--http", "127.0.0.1:0", *flags],
                            capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    return result.stdout + result.stderr


@needs_binary
def test_bad_flags_are_named_before_anything_loads(tmp_path):
    empty = tmp_path / "keys"
    empty.write_text("# nothing yet\n")
    for keys, why in ((empty, "holds no key"), (tmp_path / "none", "cannot be read"),
                      (tmp_path, "is no file")):
        # The model is not there either, but that would be found out later.
        output = start_failing("--model", str(tmp_path / "model"), "--api-keys", str(keys))
        assert f"API key file {keys}: {why}" in output
    output = start_failing("--model", str(MODEL), "--chat-format", "v9")
    assert "want v2 | v3 | r1 | r1-0528 | v3.1, got 'v9'" in output


@needs_binary
def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match="in use") as error:
            ShoalServe(http=f"127.0.0.1:{port}", workers=1)
        assert str(port) in str(error.value)
