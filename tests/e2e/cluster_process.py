# SPDX-License-Identifier: Apache-2.0
"""`shoal` processes for the cluster tests: started, watched through /proc, ended. Output is kept for failures."""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy/models/shoal-tiny"
PROMPT = "KING RICHARD:\n"


def binary():
    return os.environ.get("SHOAL_BINARY", str(ROOT / "build/release/shoal"))


def wait_for(condition, timeout_s=60, what="condition"):
    """The first true value of condition()."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


# --- Processes, seen from outside -------------------------------------------------------------------------------------


def _stat(pid):
    """State, parent and CPU seconds; None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks


def alive(pid):
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def cpu_seconds(pid):
    stat = _stat(pid)
    return stat[2] if stat else 0.0


def descendants(pid):
    """All living processes below `pid`."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat(entry)
            if stat and stat[0] not in "ZX":
                parents.setdefault(stat[1], []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        for child in parents.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


# --- Processes of ours ------------------------------------------------------------------------------------------------


class Process:
    """`with Process("serve", "--model", ...) as process:`; ends it, by force if it must."""

    def __init__(self, *arguments, launcher=(), environment=None):
        self.stdout_file = tempfile.NamedTemporaryFile("w+", prefix="shoal-out-")
        self.stderr_file = tempfile.NamedTemporaryFile("w+", prefix="shoal-err-")
        self.process = subprocess.Popen(
            [*launcher, binary(), *map(str, arguments)], stdin=subprocess.DEVNULL,
            stdout=self.stdout_file, stderr=self.stderr_file, start_new_session=True,
            env={**os.environ, **(environment or {})})
        self.pid = self.process.pid

    def out(self):
        return pathlib.Path(self.stdout_file.name).read_text(errors="replace")

    def err(self):
        return pathlib.Path(self.stderr_file.name).read_text(errors="replace")

    def exit_code(self, timeout_s=30):
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s} s:\n{self.out()}\n{self.err()}") from None

    def wait_for_text(self, text, timeout_s=60):
        def look():
            assert self.process.poll() is None or text in self.out() + self.err(), (
                f"ended with {self.process.returncode} before '{text}':\n{self.out()}\n{self.err()}")
            return text in self.out() + self.err()
        try:
            wait_for(look, timeout_s, text)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.out()}\n{self.err()}") from None

    def terminate(self, timeout_s=60):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.exit_code(timeout_s)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                assert kind is not None, f"did not end on SIGTERM:\n{self.err()}"
        if kind is not None:
            print(f"--- {' '.join(self.process.args)}\n{self.out()}\n{self.err()}")


class Head(Process):
    """A process with an API: `serve` or `coordinator`."""

    def wait_until_listening(self, timeout_s=60):
        self.wait_for_text("listening on http", timeout_s)
        line = next(line for line in self.out().splitlines() if line.startswith("listening on "))
        self.url = line.split()[-1]
        return self.url

    def cluster(self):
        return get_json(self.url, "/cluster")

    def serving(self):
        return self.cluster()["serving"]

    def worker_pids(self):
        return [worker["pid"] for worker in self.cluster()["workers"]]


class Serve(Head):
    def __init__(self, *flags, workers=2, transport="shm", model=MODEL, wait=True, environment=None):
        super().__init__("serve", "--model", model, "--workers", workers, "--transport", transport,
                         "--http", "127.0.0.1:0", *flags, environment=environment)
        if wait:
            try:
                self.wait_until_listening()
            except AssertionError:
                self.kill()
                raise


def run(*arguments, timeout_s=60):
    """A command to its end: exit code, stdout, stderr."""
    done = subprocess.run([binary(), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout_s)
    return done.returncode, done.stdout, done.stderr


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _connection(url, timeout_s):
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout_s)


def get_json(url, path, timeout_s=10):
    connection = _connection(url, timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read())
    finally:
        connection.close()


def post(url, body, timeout_s=60, path="/v1/completions"):
    """Status and JSON."""
    connection = _connection(url, timeout_s)
    try:
        connection.request("POST", path, json.dumps({"model": "shoal-tiny", **body}),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def complete(url, prompt=PROMPT, **fields):
    """The text of one completion; greedy unless told otherwise."""
    status, answer = post(url, {"prompt": prompt, "max_tokens": 40, "temperature": 0, **fields})
    assert status == 200, answer
    return answer["choices"][0]["text"]


class Stream:
    """A streamed completion that runs in a thread: text so far, how it ended."""

    def __init__(self, url, **fields):
        self.text, self.error, self.finish_reason, self.done = "", None, None, False
        self.ended_at = None
        body = {"model": "shoal-tiny", "prompt": PROMPT, "temperature": 0, "stream": True, **fields}
        self._thread = threading.Thread(target=self._run, args=(url, body), daemon=True)
        self._thread.start()

    def _run(self, url, body):
        try:
            connection = _connection(url, 60)
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                self.error = json.loads(answer.read())
                return
            for line in answer:
                line = line.decode().strip()
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    event = json.loads(line[len("data: "):])
                    if "error" in event:
                        self.error = event["error"]
                        continue
                    for choice in event["choices"]:
                        self.text += choice["text"]
                        self.finish_reason = choice["finish_reason"] or self.finish_reason
        except OSError as error:
            self.error = {"message": f"connection: {error}"}
        finally:
            self.ended_at = time.monotonic()

    def wait_for_text(self, timeout_s=30):
        wait_for(lambda: self.text or self.ended_at, timeout_s, "first text")
        assert self.text, self.error

    def join(self, timeout_s=60):
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the stream is still open after {timeout_s} s"
        return self
