"""A server of heads: bodies, limits, tokens, batches, faults. About 25 s in the first tier.

Servers are processes of their own on loopback, and clients are sockets.
"""

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from http.client import HTTPException
from typing import ClassVar

import numpy as np
import psutil
import pytest
import starlette.exceptions
from conftest import crops
from served import Answered, answer_of, form, until
from sites import installed
from starlette.requests import Request

from bottleneck import Head, Predictor, ServeSettings
from bottleneck.records import Prediction
from bottleneck.serve import bind
from bottleneck.serve.answering import Heads
from bottleneck.serve.app import make_app
from bottleneck.serve.batching import Batcher
from bottleneck.serve.bodies import Bodies

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    found = []
    for image in crops(40, size=48, seed=7):
        content = io.BytesIO()
        image.save(content, "png")
        found.append(content.getvalue())
    return found


def shares(answer: Answered) -> np.ndarray:
    return np.array(
        [list(each["probabilities"].values()) for each in answer.content["predictions"]]
    )


@pytest.fixture(scope="module")
def expected(served_heads, site, images) -> np.ndarray:
    with installed(site):
        found = Predictor(served_heads / "h").predict_proba(images)
    assert np.unique(found[:, 0].round(3)).size > len(images) / 2  # no answer is that of another
    return found


def test_bodies_of_one_image_and_of_several(serving, served_heads, images, expected):
    server = serving("h")
    one = server.predict(images[0], content_type="image/png")
    assert one.status == 200
    (found,) = one.content["predictions"]
    assert np.allclose(list(found["probabilities"].values()), expected[0], atol=1e-4)
    assert found["class"] == max(found["probabilities"], key=found["probabilities"].get)
    assert (
        found["digest"] == hashlib.sha256((served_heads / "h/head.json").read_bytes()).hexdigest()
    )
    assert (found["image"], found["file"], found["head"]) == (0, None, "h")
    assert 0 <= found["novelty"] <= 100
    several = server.predict(*images)
    assert np.allclose(shares(several), expected, atol=1e-4)
    assert [each["file"] for each in several.content["predictions"]] == [
        f"{number}.png" for number in range(40)
    ]
    (short,) = server.predict(images[0], query="?top=1").content["predictions"]
    assert short["probabilities"] == {found["class"]: max(found["probabilities"].values())}
    mixed = server.predict(images[0], b"no image", images[1])
    assert mixed.status == 200
    assert ["error" in each for each in mixed.content["predictions"]] == [False, True, False]
    connection = server.connect()
    connection.request("POST", "/predict", iter([images[0][:100], images[0][100:]]))  # in chunks
    assert answer_of(connection).content == one.content
    connection.close()


@pytest.mark.usefixtures("little")
def test_several_heads_share_the_forward_of_their_base(served_heads, images, calls):
    names = ("h", "s", "early")
    folders = {name: (served_heads / name, Head.load(served_heads / name)) for name in names}
    served = Heads(folders, ServeSettings())
    ready = [served.ready(data) for data in images[:6]]
    assert not calls
    answers = served.answers(ready, few=True)
    assert calls == [6]
    for name in names:
        known = Predictor(served_heads / name).predict_proba(images[:6])
        found = [list(answer[name].probabilities.values()) for answer in answers]
        assert np.allclose(found, known, atol=1e-5)


def test_a_request_may_choose_among_heads(serving, images):
    server = serving("h", "s", "early")
    every = server.predict(images[0], images[1]).content["predictions"]
    assert [each["head"] for each in every] == ["h", "s", "early"] * 2
    assert [each["image"] for each in every] == [0, 0, 0, 1, 1, 1]
    one = server.predict(images[0], query="?head=s&head=h").content["predictions"]
    assert [each["head"] for each in one] == ["s", "h"]
    info = server.ask("/info").content
    assert [each["head"] for each in info["heads"]] == ["h", "s", "early"]
    assert info["heads"][0]["classes"] == ["cat", "dog"]
    assert info["heads"][0]["features"][0]["layer"] == "flat"


REFUSED = [
    ("POST", "/predict", b"", 400, "the request has no body"),
    ("POST", "/predict", b"no image", 422, "no image can be used: not an image in a known format"),
    ("POST", "/predict?top=0", b"x", 400, "top must be a number of at least 1, got '0'"),
    ("POST", "/predict?top=x", b"x", 400, "top must be a number of at least 1, got 'x'"),
    ("POST", "/predict?head=no", b"x", 404, "no head 'no' is served; expected 'h'"),
    ("GET", "/predict", None, 405, "there is no GET /predict; /docs lists what there is"),
    ("GET", "/../../etc/passwd", None, 404, "there is no GET"),
    ("DELETE", "/", None, 405, "there is no DELETE /"),
    ("POST", "/predict/", b"x", 404, "there is no POST /predict/; /docs lists what there is"),
    ("POST", "/predict?tpo=1", b"x", 400, "there is no parameter 'tpo'; did you mean 'top'?"),
]


def test_refusals_are_one_sentence_without_a_path_of_the_server(serving, served_heads, images):
    server = serving("h")
    answers = []
    for method, path, body, status, sentence in REFUSED:
        answer = server.ask(path, body, method)
        assert (answer.status, answer.content["error"][: len(sentence)]) == (status, sentence)
        answers.append(answer)
    multipart = "multipart/form-data"
    kind, whole = form(("../../x<b>.png", images[0][:300]), ("\u202e", b""))
    field = b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--X--\r\n'
    for content_type, body, status in (
        (multipart, whole, 400),
        (kind, field, 400),
        (kind, whole[:60], 400),
        (kind, b"--Y", 400),
        (f"{multipart}; boundary=", whole, 400),
        (kind, whole, 422),
        (kind, form(*[("x", images[0])] * 65)[1], 413),
    ):
        answers.append(server.ask("/predict", body, content_type=content_type))
        assert answers[-1].status == status, (content_type, answers[-1].text)
    assert answers[-2].content["predictions"][0]["file"] == "../../x<b>.png"
    answers += [server.ask(path) for path in ("/info", "/metrics", "/health", "/openapi.json")]
    answers += [server.ask("/"), server.ask("/docs"), server.predict(images[0])]
    for answer in answers:
        told = f"{answer.text} {answer.headers}"
        assert str(served_heads.parent) not in told
        assert "site-packages" not in told
        assert " object at 0x" not in told
        assert answer.headers["x-content-type-options"] == "nosniff"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        refused = answer_of(raw)
    assert (refused.status, refused.headers["connection"]) == (400, "close")
    assert refused.content["error"].startswith("the request is not HTTP/1.1; see /docs")
    assert server.figure('bottleneck_requests_total{path="",status="400"}') == 1
    assert server.figure('bottleneck_requests_total{path="other",status="404"}') == 2
    assert server.figure('bottleneck_requests_total{path="/predict",status="404"}') == 1
    assert server.figure('bottleneck_requests_total{path="/",status="405"}') == 1
    assert server.predict(images[0]).status == 200


def test_too_many_connections_are_told_as_other_errors(serving, images):
    server = serving("h", "--queue", 1)
    others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(140)]
    until(lambda: server.ask("/health").status == 503)
    refused = server.predict(images[0])
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.content["error"] == "the server has too many connections; try again later"
    for each in others:
        each.close()
    until(lambda: server.ask("/health").status == 200)
    assert server.predict(images[0]).status == 200
    assert server.figure('bottleneck_requests_total{path="/predict",status="503"}') == 1
    assert server.figure('bottleneck_requests_total{path="/health",status="503"}') >= 1


def test_limits_of_size_pixels_and_number(serving, images):
    server = serving("h", "--max-body", "20kB", "--max-pixels", 2304, "--queue", 3)
    assert server.predict(images[0]).status == 200
    large = server.predict(bytes(20_001))
    assert large.status == 413
    assert "more bytes than the limit of 20,000" in large.content["error"]
    connection = server.connect()
    connection.request("POST", "/predict", iter([bytes(15_000), bytes(15_000)]))
    assert answer_of(connection).status == 413
    connection.close()
    wide = io.BytesIO()
    crops(1, size=49)[0].save(wide, "png")
    told = server.predict(wide.getvalue()).content["error"]
    assert told.endswith("pixels are more than the limit of 2,304; send a smaller one")
    many = server.predict(*images[:4])
    assert (many.status, many.headers.get("retry-after")) == (413, None)  # never succeeds
    told = "the request has too many files; send at most 3 at a time"
    assert many.content["error"] == told
    assert server.predict(*images[:3]).status == 200
    assert server.figure('bottleneck_requests_total{path="/predict",status="413"}') == 3


def test_bytes_of_requests_count_until_they_are_answered(monkeypatch):
    monkeypatch.setattr("bottleneck.serve.bodies._HELD", 0)
    bodies = Bodies(10, timeout=5, queue=3)

    def request() -> Request:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"0123456789", "more_body": False}

        return Request({"type": "http", "headers": []}, receive)

    async def ask() -> None:
        async with AsyncExitStack() as held:
            for _ in range(16):
                (file,) = await held.enter_async_context(bodies.images(request()))
                assert file.data == b"0123456789"
            with pytest.raises(starlette.exceptions.HTTPException, match="^429: too many large"):
                await held.enter_async_context(bodies.images(request()))
        async with bodies.images(request()) as files:
            assert len(files) == 1

    asyncio.run(ask())


def test_a_slow_upload_is_ended(serving, images):
    server = serving("h", "--timeout", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
        )
        answer = answer_of(connection)
    assert answer.status == 408
    assert "had not arrived after 1 s" in answer.text
    assert server.predict(images[0]).status == 200


def test_a_token_is_asked_for(serving, images):
    for server in (
        serving("h", "--host", "0.0.0.0", "--token", TOKEN),
        serving("h", BOTTLENECK_TOKEN=TOKEN),
    ):
        for path in ("/", "/docs", "/health", "/openapi.json"):
            assert server.ask(path).status == 200
        for wrong in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path, body in (("/predict", images[0]), ("/info", None), ("/metrics", None)):
                refused = server.ask(path, body, **wrong)
                assert refused.status == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert "the token is missing or wrong" in refused.content["error"]
        assert server.predict(images[0], Authorization=f"bearer {TOKEN}").status == 200
        assert server.ask("/info", Authorization=f"Bearer {TOKEN}").status == 200


def test_pages_of_other_sites_do_not_reach_a_server_without_a_token(serving, images):
    """A site may have its name lead to this machine, so that its pages could read the answers."""
    server = serving("h")
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:9", "[::1]", "[::1]:8000"):
        assert server.predict(images[0], Host=host).status == 200
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        ":",
        "",
    ):
        for path, body in (("/predict", images[0]), ("/info", None), ("/", None)):
            refused = server.ask(path, body, Host=host)
            assert refused.status == 421
            assert "answers as localhost only" in refused.content["error"]
    secret = serving("h", "--token", TOKEN)
    asked = {"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"}
    assert secret.predict(images[0], **asked).status == 200


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--port", "0", "nope"), "no head 'nope' in"),
        (("--host", "0.0.0.0", "h"), "--host 0.0.0.0 can be reached from other machines"),
        (("--host", "::", "h"), "--host :: can be reached from other machines"),
        (("--host", "no.such.host.invalid", "h"), "is not an address of this machine"),
        (("--host", "192.0.2.1", "--token", TOKEN, "h"), "give another --port or --host"),
        (("--token", "short", "h"), "--token must have at least 16 letters"),
        (("--port", "0", "h", "h"), "two heads have the name 'h'; give each once"),
        (("--port", "70000", "h"), "--port must be a whole number from 0 to 65535, got '70000'"),
        (("--port", "0", "--abstain", "99", "blind"), "does not know how far images are"),
    ],
)
@pytest.mark.usefixtures("little")
def test_bad_usage_is_one_sentence(bottleneck, served_heads, arguments, sentence):
    if "blind" in arguments:
        replace(Head.load(served_heads / "h"), novelty=None).save("heads/blind")
    folder = "heads" if "blind" in arguments else served_heads
    refused = bottleneck("serve", "--heads", folder, *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert sentence in refused.err
    assert refused.err.count("error: ") == 1


def test_a_port_in_use_and_a_missing_library(bottleneck, served_heads, monkeypatch):
    beginning, _ = bind(ServeSettings(port=0))  # another server, which still loads its heads
    with beginning:
        port = beginning.getsockname()[1]
        refused = bottleneck("serve", "--heads", served_heads, "--port", port, "h")
    assert refused.code == 2
    assert f"port {port} of 127.0.0.1 is in use; give another with --port" in refused.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused = bottleneck("serve", "--heads", served_heads, "h")
    assert refused.code == 1
    assert (
        "a server needs uvicorn, which is not installed; run 'pip install uvicorn'" in refused.err
    )


class Odd:
    """Answers numbers, and fails where one is odd."""

    workers, decoders, batch_size, few = 2, 2, 4, 8

    def begin_thread(self, *, few: bool) -> None: ...

    def ready(self, data: bytes) -> int:
        return int(data)

    def answers(self, images, *, few: bool) -> list[dict[str, int]]:  # noqa: ARG002 - one way
        time.sleep(0.01)
        if any(number % 2 for number in images):
            raise ValueError(images)
        return [{"half": number // 2} for number in images]


def test_an_image_that_fails_leaves_those_of_its_batch_alone():
    async def ask() -> tuple[list[object], list[int]]:
        sizes: list[int] = []
        batcher = Batcher(Odd(), 100, sizes.append)
        try:
            return await batcher.answer([b"%d" % number for number in range(40)]), sizes
        finally:
            batcher.close()

    found, sizes = asyncio.run(ask())
    assert [each["half"] for each in found[::2]] == list(range(20))
    assert all(isinstance(each, ValueError) for each in found[1::2])
    assert sum(sizes) == 40
    assert max(sizes) > 1


class Failing:
    """Answers ``slow`` after a second, and fails for what else it is given."""

    workers = decoders = batch_size = few = 1
    errors: ClassVar = {
        b"memory": MemoryError(),
        b"cuda": RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        b"broken": ValueError("in /home/me/heads"),
    }

    def begin_thread(self, *, few: bool) -> None: ...

    def ready(self, data: bytes) -> bytes:
        return data

    def answers(self, images, *, few: bool) -> list[dict[str, Prediction]]:  # noqa: ARG002 - one way
        for data in images:
            if data in self.errors:
                raise self.errors[data]
        time.sleep(1)
        return [{"h": Prediction("", "a", scores={}, probabilities={"a": 1.0})} for _ in images]

    def facts(self) -> list[dict[str, str]]:
        return [{"head": "h", "digest": "0"}]


def asked(*bodies: bytes, **settings) -> list[Answered]:
    """The answers to bodies that are sent at the same time, in this process."""
    app = make_app(Failing(), ServeSettings(**settings))

    async def ask(body: bytes) -> Answered:
        sent: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
        await app({**scope, "headers": []}, receive, send)
        start, content = sent[0], sent[1]["body"].decode()
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answered(start["status"], json.loads(content), headers, content)

    async def every() -> list[Answered]:
        async with app.router.lifespan_context(app):
            return await asyncio.gather(*map(ask, bodies))

    return asyncio.run(every())


def test_too_little_time_and_memory_and_a_full_queue_are_told():
    (late,) = asked(b"slow", timeout=0.1)
    assert (late.status, late.headers["retry-after"]) == (503, "5")
    assert late.content == {"error": "there was no answer after 0.1 s; try again later"}
    for short in asked(b"memory", b"cuda"):
        assert short.status == 503
        assert short.content["error"].startswith("the server has not enough memory; send fewer")
    first, second = asked(b"slow", b"slow", queue=1)
    assert (first.status, second.status, second.headers["retry-after"]) == (200, 429, "1")
    assert second.content["error"] == "too many images are waiting; try again later"


def test_a_failure_is_told_in_the_log_only(caplog):
    (failed,) = asked(b"broken")
    assert failed.status == 500
    assert failed.content == {"error": "the server failed; its own output says why"}
    assert "in /home/me/heads" in caplog.text


def test_answers_are_as_openapi_describes_them(serving, images):
    """Each status, and each key."""
    server, secret = serving("h", "--queue", 3), serving("h", "--token", TOKEN)
    description = server.ask("/openapi.json").content
    schemas = description["components"]["schemas"]
    asked = [
        ("/predict", "post", server.predict(images[0], b"no image", images[1]), 200),
        ("/predict", "post", server.predict(b""), 400),
        ("/predict", "post", secret.predict(images[0]), 401),
        ("/predict", "post", server.predict(images[0], query="?head=no"), 404),
        ("/predict", "post", server.predict(*images[:4]), 413),
        ("/predict", "post", server.predict(images[0], Host="evil.example"), 421),
        ("/predict", "post", server.predict(b"no image"), 422),
        ("/health", "get", server.ask("/health"), 200),
        ("/health", "get", server.ask("/health", Host="evil.example"), 421),
        ("/info", "get", server.ask("/info", Host="evil.example"), 421),
        ("/info", "get", secret.ask("/info"), 401),
        ("/metrics", "get", secret.ask("/metrics"), 401),
    ]
    for path, method, answer, status in asked:
        assert answer.status == status
        told = description["paths"][path][method]["responses"][str(status)]
        schema = told["content"]["application/json"]["schema"]
        known = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        assert answer.content.keys() == known["properties"].keys()
        for each in answer.content.get("predictions", ()):
            assert each.keys() <= schemas["Prediction"]["properties"].keys()
    for path in ("/predict", "/health", "/info", "/metrics"):
        (method,) = description["paths"][path].values()
        assert {"421", "500", "503"} <= method["responses"].keys()


def test_requests_at_the_same_time_share_batches(serving, images, expected):
    server = serving("h")
    every = [number % len(images) for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: server.predict(images[number]), every))
    assert all(answer.status == 200 for answer in found)
    for number, answer in zip(every, found, strict=True):
        assert np.allclose(shares(answer)[0], expected[number], atol=1e-4)
    assert server.figure("bottleneck_batch_images_sum") == 200
    assert server.figure("bottleneck_batch_images_count") <= 200
    assert server.figure('bottleneck_images_total{result="predicted"}') == 200
    assert server.figure("bottleneck_waiting_images") == 0
    assert server.figure("process_resident_memory_bytes") > 10**6


def test_killed_and_slow_clients_change_nothing_for_others(serving, images, expected):
    """Half uploads, clients that go while they wait, and one byte at a time."""
    server = serving("h", "--timeout", 60)
    generator = random.Random(0)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

    def bad(number: int) -> None:
        data = head % len(images[0]) + images[0]
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(data[: generator.randrange(1, len(data))] if number % 2 else data)
        if number % 3 == 0:  # a reset instead of an orderly end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()

    slow = socket.create_connection(("127.0.0.1", server.port))
    data = head % len(images[1]) + images[1]
    slow.sendall(data[:-40])
    with ThreadPoolExecutor(8) as pool:
        ended = [pool.submit(bad, number) for number in range(60)]
        found = list(pool.map(server.predict, images))
        for each in ended:
            each.result()
    assert np.allclose(np.concatenate(list(map(shares, found))), expected, atol=1e-4)
    for byte in data[-40:]:
        slow.sendall(bytes([byte]))
        time.sleep(0.01)
    slow.settimeout(60)
    with slow:
        answer = answer_of(slow)
    assert answer.status == 200
    assert np.allclose(shares(answer), expected[1:2], atol=1e-4)
    until(lambda: server.figure("bottleneck_waiting_images") == 0)


def test_sigterm_answers_what_has_begun(serving, images, expected):
    """All requests that were sent whole are answered, and rightly; then nobody listens.

    Other clients keep sending until they are refused.
    """
    server = serving("h", "--timeout", 600)
    content = io.BytesIO()
    crops(1, size=300)[0].resize((1500, 1500)).save(content, "png", compress_level=1)
    kind, body = form(*[(f"{number}.png", content.getvalue()) for number in range(4)])
    alone = shares(server.ask("/predict", body, content_type=kind))
    clients = [server.connect() for _ in range(6)]

    def go_on(number: int) -> list[Answered]:
        found = []
        with suppress(OSError, HTTPException):
            while True:
                found.append(server.predict(images[number]))
        return found

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(go_on, number) for number in range(3)]
        for client in clients:
            client.request("POST", "/predict", body, {"content-type": kind})
        until(lambda: server.figure("bottleneck_waiting_images") > 8)
        os.kill(server.process.pid, signal.SIGTERM)
        answers = [answer_of(client) for client in clients]
    assert [answer.status for answer in answers] == [200] * 6
    assert all(np.allclose(shares(answer), alone, atol=1e-4) for answer in answers)
    for number, other in enumerate(others):
        assert other.result()
        for answer in other.result():
            assert answer.status == 200
            assert np.allclose(shares(answer), expected[number : number + 1], atol=1e-4)
    server.process.join(60)
    assert server.process.exitcode == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        server.ask("/health")
    for client in clients:
        client.close()


def damaged(images: list[bytes], count: int) -> list[bytes]:
    """Different corrupt files: cut, changed, of other formats, or with hostile headers."""
    generator = random.Random(0)
    sources = [*images[:6]]
    for kind in ("jpeg", "tiff", "webp", "bmp", "gif", "ppm", "avif"):
        content = io.BytesIO()
        crops(1, size=64)[0].save(content, kind)
        sources.append(content.getvalue())
    bomb = bytearray(images[0])
    bomb[16:24] = b"\x7f\xff\xff\xff" * 2
    found = [bytes(bomb), b"<svg onload=alert(1)>", b"%PDF-1.7", b"GIF89a", bytes(1000)]
    while len(found) < count:
        data = bytearray(generator.choice(sources))
        for _ in range(generator.randrange(1, 30)):  # half of them in the header
            most = generator.choice([64, len(data)])
            data[generator.randrange(most)] = generator.randrange(256)
        found.append(bytes(data[: generator.randrange(1, len(data) + 1)]))
    return found


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.ci)])
def test_corrupt_images_among_good_ones(serving, images, expected, count):
    """Each is 422 with a reason, or an image after all; no good one is answered wrongly."""
    server = serving("h")
    bad = damaged(images, count)
    asked = [data for number, one in enumerate(bad) for data in (one, images[number % 40])]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(server.predict, asked))
    for number, (broken, good) in enumerate(zip(found[::2], found[1::2], strict=True)):
        assert good.status == 200
        assert np.allclose(shares(good)[0], expected[number % 40], atol=1e-4)
        assert broken.status in {200, 422}, broken.text
        if broken.status == 422:
            assert broken.content["predictions"][0]["error"]
            assert "/tmp" not in broken.text
            assert " object at 0x" not in broken.text
    assert sum(broken.status == 422 for broken in found[::2]) > count / 2
    assert server.figure("bottleneck_images_total") == 2 * count


@pytest.mark.ci
def test_memory_stays_flat_and_idle_connections_end(serving, images):
    server = serving("h")
    process = psutil.Process(server.process.pid)

    def ask_all() -> int:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(server.predict, images * 10))
        return process.memory_info().rss

    before = [ask_all() for _ in range(3)][-1]
    after = [ask_all() for _ in range(3)][-1]
    assert after < before + 20e6
    silent = socket.create_connection(("127.0.0.1", server.port))
    dripping = socket.create_connection(("127.0.0.1", server.port))
    ended = time.monotonic() + 15
    with suppress(OSError, HTTPException):
        for letter in b"GET /health HTTP/1.1\r\nx: " + b"y" * 100:
            dripping.sendall(bytes([letter]))
            time.sleep(0.2)
    assert time.monotonic() < ended
    silent.settimeout(15)
    with suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    silent.close()
    dripping.close()
