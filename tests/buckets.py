"""An S3 server on loopback, through moto, that can be slow, fail, and count what it is asked."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from unittest.mock import patch

BUCKET = "bucket"


class Slow:
    """An application of WSGI that answers as another does: later, and at times not at all.

    Attributes
    ----------
    delay : float
        Seconds before each answer.
    every : int
        Each such request fails with 503; 0 for none.
    requests : list of (str, str)
        Method and path of each request.
    seconds : float
        Processor time of all answers.
    """

    def __init__(self, inner: Any, delay: float = 0.0, every: int = 0) -> None:
        self.inner, self.delay, self.every = inner, delay, every
        self.requests: list[tuple[str, str]] = []
        self.seconds, self._count = 0.0, 0
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        begun = time.thread_time()
        with self._lock:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            self._count += 1
            fails = self.every and self._count % self.every == 0
        time.sleep(self.delay)
        try:
            if fails:
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            return self.inner(environ, start)
        finally:
            with self._lock:
                self.seconds += time.thread_time() - begun

    def gets(self) -> list[str]:
        """Return the paths of the objects that were read."""
        return [path for method, path in self.requests if method == "GET" and path.count("/") > 1]


@contextmanager
def s3_server(delay: float = 0.0, every: int = 0) -> Iterator[tuple[Slow, Any]]:
    """Serve an empty bucket; yield the server, and a client of boto3 that reaches it at once."""
    import boto3  # noqa: PLC0415 - not every test needs it
    import s3fs  # noqa: PLC0415
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    application = Slow(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    reset = HTTPConnection("127.0.0.1", server.server_port)
    reset.request("POST", "/moto-api/reset")  # what an earlier server of this process had
    reset.getresponse().read()
    reset.close()
    own = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        with patch.dict(os.environ, own):
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            application.delay, application.every = delay, every
            s3fs.S3FileSystem.clear_instance_cache()
            yield application, client
            client.close()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":  # for benchmarks: a process whose processor time can be told
    import sys

    with s3_server(float(sys.argv[1]), int(sys.argv[2])):
        print(os.environ["AWS_ENDPOINT_URL"], flush=True)  # noqa: T201 - to who started it
        sys.stdin.read()
