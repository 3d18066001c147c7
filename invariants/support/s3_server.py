"""An S3 server on this machine, and one that refuses some of what it is asked."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from kvcore.io import digest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "invented",
    "AWS_SECRET_ACCESS_KEY": "invented",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_REFUSAL = b"<Error><Code>ServiceUnavailable</Code><Message>try again</Message></Error>"


@dataclass
class S3Server:
    """A server with one bucket, ``rows``.

    - `refused_share`: of the requests, chosen at random by a seed, that are answered by a 503; half
      of them after they were carried out, as when an answer is lost.
    - `requests`: method and path of everything that was asked.
    """

    port: int
    refused_share: float = 0.0
    requests: list[tuple[str, str]] = field(default_factory=list)
    refused: int = 0

    def url(self, folder: str) -> str:
        """Return the URL of a folder of the bucket."""
        query = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://rows/{folder}?{query}"


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def s3_server(seed: str = "") -> Iterator[S3Server]:
    """Run a server until the block ends; credentials are in the environment meanwhile."""
    moto = DomainDispatcherApplication(create_backend_app)
    server = S3Server(0)
    chance, lock = random.Random(digest("refuse", seed)), threading.Lock()

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            server.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            refused = chance.random() < server.refused_share
            carried_out = chance.random() < 0.5
            server.refused += refused
        answers: list[Any] = []
        if not refused or carried_out:
            body = list(moto(environ, lambda *answer: answers.append(answer)))
        if refused:
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [_REFUSAL]
        start(*answers[0])
        return body

    running = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.port = running.server_port
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in [n for n in os.environ if n.startswith("AWS_") and n not in CREDENTIALS]:
            patch.delenv(name)
        thread.start()
        _make_bucket(server)
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
            running.server_close()


def _make_bucket(server: S3Server) -> None:
    from pyarrow import fs

    url = server.url("x").replace("s3://rows/x?", "s3://rows?allow_bucket_creation=true&")
    files, path = fs.FileSystem.from_uri(url)
    files.create_dir(path)
