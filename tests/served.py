"""Servers of heads in processes of their own, for tests; see `serving`."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from sites import installed

from bottleneck import FrozenBase, ImageSet, extract_features, fit_head, load_features
from bottleneck.cli import main


@dataclass
class Answered:
    """An answer of a server."""

    status: int
    content: Any
    headers: dict[str, str]
    text: str


@dataclass
class Running:
    """A server in a process of its own."""

    process: Any
    port: int
    told: Path

    def connect(self, timeout: float = 60) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, path: str, body: bytes | None = None, method: str = "", **headers) -> Answered:
        connection = self.connect()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, names)
        answer = answer_of(connection)
        connection.close()
        return answer

    def predict(self, *images: bytes, query: str = "", **headers) -> Answered:
        if len(images) == 1:
            return self.ask(f"/predict{query}", images[0], **headers)
        kind, body = form(*((f"{number}.png", data) for number, data in enumerate(images)))
        return self.ask(f"/predict{query}", body, content_type=kind, **headers)

    def figure(self, name: str) -> float:
        lines = self.ask("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def answer_of(connection: HTTPConnection | socket.socket) -> Answered:
    if isinstance(connection, HTTPConnection):
        got = connection.getresponse()
    else:
        got = HTTPResponse(connection)
        got.begin()
    text = got.read().decode()
    kind = got.getheader("content-type", "")
    content = json.loads(text) if kind.startswith("application/json") else None
    return Answered(got.status, content, dict(got.getheaders()), text)


def form(*files: tuple[str, bytes]) -> tuple[str, bytes]:
    """A form's content type and body."""
    parts = [
        f'--X\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return "multipart/form-data; boundary=X", b"".join([*parts, b"--X--\r\n"])


@pytest.fixture(scope="session")
def served_heads(made_once, make_images, site) -> Path:
    """A folder of heads on layers of one base: ``h`` and ``s``, and ``early``."""

    def make(folder: Path) -> None:
        with installed(site), pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            images = ImageSet.from_folder(make_images(cat=20, dog=20))
            base = FrozenBase("little", ["first_relu", "flat"], weights="random:0", pool="avg")
            extract_features(images, base, "cache")
            for name, clf, layer in (("h", "softmax", "flat"), ("s", "svm", "flat")):
                # A small C would give all images the same answer.
                fit_head(load_features("cache", layer=layer), clf, C=1e4).save(f"heads/{name}")
            fit_head(load_features("cache", layer="first_relu"), "logreg").save("heads/early")

    return made_once("served", make) / "heads"


def run_server(site: str, told: str, environment: dict[str, str], arguments: list[str]) -> None:
    """What the process of a server does."""
    sys.path.insert(0, site)
    os.environ |= environment
    with Path(told).open("w") as out, redirect_stdout(out), redirect_stderr(out):
        main(["serve", "--port", "0", "--json", *arguments])


@pytest.fixture
def serving(processes, site, served_heads, tmp_path) -> Iterator[Callable[..., Running]]:
    """Start a server with options: ``serving("h", "--queue", 3)``; it is ended with the test."""
    started = []

    def start(*arguments: object, **environment: str) -> Running:
        told = tmp_path / f"told-{len(started)}"
        given = ["--heads", str(served_heads), *map(str, arguments)]
        process = processes.Process(
            target=run_server, args=(str(site), str(told), environment, given)
        )
        process.start()
        started.append(process)
        until(lambda: (told.exists() and "}" in told.read_text()) or not process.is_alive())
        text = told.read_text()
        facts = json.loads(text[text.index("{") : text.rindex("}") + 1])
        assert facts.keys() == {"address", "heads"}
        return Running(process, int(facts["address"].rpartition(":")[2]), told)

    yield start
    for process in started:
        process.terminate()
        process.join(60)
        assert process.exitcode == 128 + signal.SIGTERM
    assert all("Traceback" not in told.read_text() for told in tmp_path.glob("told-*"))


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
