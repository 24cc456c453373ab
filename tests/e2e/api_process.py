# SPDX-License-Identifier: Apache-2.0
"""A `shoal serve` of the API tests: started, asked, stopped. Its output is kept for failures."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy/models/shoal-tiny"
START_TIMEOUT_S = 120


def binary():
    return os.environ.get("SHOAL_BINARY", str(ROOT / "build/release/shoal"))


class ShoalServe:
    """`with ShoalServe("--flag", "value") as server: server.url`"""

    def __init__(self, *flags, http="127.0.0.1:0", workers=2):
        self.output = tempfile.NamedTemporaryFile("w+", prefix="shoal-serve-", suffix=".log")
        self.process = subprocess.Popen(
            [binary(), "serve", "--model", str(MODEL), "--workers", str(workers), "--transport",
             "shm", "--http", http, *flags],
            stdout=self.output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.url = None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.log().splitlines():
                if "listening on http" in line:
                    self.url = line.split("listening on ", 1)[1].split()[0].rstrip("/")
                    return
            if self.process.poll() is not None:
                raise RuntimeError(f"shoal serve ended with {self.process.returncode}:\n{self.log()}")
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"shoal serve did not start in {START_TIMEOUT_S} s:\n{self.log()}")

    def log(self):
        return pathlib.Path(self.output.name).read_text(errors="replace")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"shoal serve did not end on SIGTERM:\n{self.log()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()


def http_json(url, body=None, headers=None, timeout=60):
    """Status, headers and JSON body of a GET, or of a POST if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def running_sequences(url):
    _, _, cluster = http_json(url + "/cluster")
    return sum(worker["running_sequences"] for worker in cluster["workers"])


def blocks_used(url):
    _, _, cluster = http_json(url + "/cluster")
    return sum(worker["blocks_used"] for worker in cluster["workers"])


def wait_for(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
