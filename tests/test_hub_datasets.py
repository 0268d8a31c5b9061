"""Datasets of the Hub, ``hf://datasets/...``, from a server on loopback that has one. About 3 s."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from bottleneck import ImageSet
from bottleneck.errors import DataError, PathMissingError
from bottleneck.images import digests_remembered, read_file
from bottleneck.sources import opening

NAME = "someone/pets"


class Hub(BaseHTTPRequestHandler):
    """The answers that the Hub's file system needs: of a repository, its files, and their bytes."""

    files: dict[str, bytes]
    asked: list[str]
    status = 404

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        _, known, name = path.partition(NAME)
        _, _, place = name.partition("/main")
        if not known:
            self.answer(b"", self.status)
        elif "/resolve/" in name:
            content = self.files[place[1:]]
            first, _, last = (
                (self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")
            )
            self.answer(content[int(first) : int(last or len(content)) + 1], 206)
        elif "/tree/" in name:
            within = [each for each in self.files if f"/{each}".startswith(f"{place}/")]
            self.answer(json.dumps([self.told(each) for each in within]).encode())
        else:
            siblings = [{"rfilename": each} for each in self.files]
            self.answer(json.dumps({"id": NAME, "sha": "a" * 40, "siblings": siblings}).encode())

    def told(self, path: str) -> dict[str, object]:
        content = self.files[path]
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return {"type": "file", "oid": digest, "size": len(content), "path": path}

    def answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    handler = type("Own", (Hub,), {"files": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        places = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", places)
        yield handler
        server.shutdown()
        thread.join()


def test_a_dataset_of_the_hub_is_read_and_looked_at_again_for_nothing(hub, make_images):
    """Its images, classes and splits; the second time, no bytes of its tables are asked for."""
    images = sorted(make_images("data", cat=6, dog=6).rglob("*.png"))
    for split, own in (("train", images[::2]), ("test", images[1::2])):
        rows = {
            "image": [{"bytes": each.read_bytes(), "path": each.name} for each in own],
            "label": [each.parent.name for each in own],
        }
        content = io.BytesIO()
        parquet.write_table(pa.table(rows), content)
        hub.files[f"data/{split}-00000-of-00001.parquet"] = content.getvalue()
    hub.files["README.md"] = b"# Pets"
    url, there = f"hf://datasets/{NAME}", ImageSet.open("data")
    for again in (False, True):
        hub.asked.clear()
        opening._opened.clear()
        with digests_remembered("cache"):
            here = ImageSet.open(url)
        assert here.name == "pets"
        assert {each.digest: each.label for each in here.items} == {
            each.digest: each.label for each in there.items
        }
        assert [each.split for each in here.items].count("test") == 6
        assert any("/resolve/" in each for each in hub.asked) is not again
    assert read_file(here.items[0])


def test_datasets_that_are_not_there_or_not_for_everybody_are_one_sentence(hub):
    with pytest.raises(PathMissingError, match="no file or folder 'hf://datasets/no/such'; corr"):
        ImageSet.open("hf://datasets/no/such")
    hub.status = 403
    with pytest.raises(DataError, match="'hf://datasets/no/such2' cannot be read without valid"):
        ImageSet.open("hf://datasets/no/such2")
    assert len(hub.asked) < 20
