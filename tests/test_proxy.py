"""The proxy of docker-compose.yml, run by a real nginx where one is installed."""

import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from app.cli.service_process import free_ports
from tests.support.compose import ROOT

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

_CONFIGURATION = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/default.conf;
}}
"""


class Upstream(BaseHTTPRequestHandler):
    """Stands in for the API."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()
    bodies: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Accel-Buffering", "no")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"6\r\nfirst\n\r\n")
        self.wfile.flush()
        if self.path == "/stream":
            self.go_on.wait(20)
        self.wfile.write(b"7\r\nsecond\n\r\n0\r\n\r\n")

    def do_POST(self) -> None:
        self.bodies.append(len(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of an nginx with the template of docker-compose.yml, in front of `Upstream`."""
    server = Server(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    [port] = free_ports(1)
    template = (ROOT / "docker" / "nginx.conf.template").read_text(encoding="utf-8")
    for before, after in (
        ("${IPT_API_ADDRESS}", f"127.0.0.1:{server.server_port}"),
        ("${NGINX_LOCAL_RESOLVERS}", "127.0.0.1"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
    ):
        assert before in template
        template = template.replace(before, after)
    (tmp_path / "default.conf").write_text(template)
    main = tmp_path / "nginx.conf"
    main.write_text(_CONFIGURATION.format(folder=tmp_path))
    process = subprocess.Popen([str(NGINX), "-e", "stderr", "-c", str(main), "-g", "user root;"])
    try:
        _wait_until_open(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        server.shutdown()
        server.server_close()


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, "nginx rejects its configuration"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_requests_pass_streams_are_not_held_back_and_metrics_are_hidden(port: int) -> None:
    Upstream.go_on.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    assert response.read1(100) == b"first\n", "nginx waits for the end of the stream"
    Upstream.go_on.set()
    assert response.read() == b"second\n"
    connection.request("POST", "/v1/adaptations", body=b"x" * 2_000_000)
    assert connection.getresponse().read() == b""
    assert Upstream.bodies == [2_000_000]
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 404
    connection.close()


def test_an_address_has_a_limited_number_of_connections(port: int) -> None:
    Upstream.go_on.clear()
    sockets = []
    for _ in range(130):
        connection = socket.create_connection(("127.0.0.1", port), 20)
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sockets.append(connection)
    statuses = [connection.recv(12) for connection in sockets]
    Upstream.go_on.set()
    assert statuses.count(b"HTTP/1.1 200") == 128
    assert statuses.count(b"HTTP/1.1 429") == 2
    for connection in sockets:
        connection.close()
