"""Behaves as the Hugging Face Hub's S3 gateway does, in front of an S3 server on this machine.

The bucket is below a namespace, objects are got through a redirect, and what the gateway does not know is refused: conditions on
gets, metadata, tags, and checksums after the body.
"""

import http.client
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REFUSED = ("x-amz-meta-", "x-amz-tagging", "x-amz-trailer", "x-amz-copy-source-range")


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend = cdn = 0

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        names = [name.lower() for name in self.headers.keys()]
        is_get = self.command == "GET"
        refused = [name for name in names if name.startswith(REFUSED)]
        if is_get:
            refused += [name for name in names if name in ("if-match", "if-none-match")]
        parts = urlsplit(self.path)
        segments = parts.path.lstrip("/").split("/")
        if refused or "aws-chunked" in self.headers.get("Content-Encoding", "") or len(segments) < 2:
            return self.answer(501, {}, b"not known here: " + ", ".join(refused).encode())
        path = "/" + "/".join(segments[1:]) + (f"?{parts.query}" if parts.query else "")
        if is_get and len(segments) > 2 and not parts.query:
            return self.answer(302, {"Location": f"http://127.0.0.1:{self.cdn}{path}"}, b"")
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        self.forward(path, body, headers)

    def forward(self, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.backend)
        connection.request(self.command, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        kept = {name: value for name, value in response.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "server", "date", "content-length")}
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        self.answer(response.status, kept, content, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def answer(self, status, headers, content, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length if length is not None else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class Cdn(Gateway):
    """Where gets are redirected to. It must not be shown the credentials of the gateway."""

    def do_GET(self):
        if "Authorization" in self.headers:
            return self.answer(400, {}, b"credentials were sent to another server")
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=cdn/20260101/us-east-1/s3/aws4_request, "
                                    "SignedHeaders=host, Signature=00"}
        if "Range" in self.headers:
            headers["Range"] = self.headers["Range"]
        self.forward(self.path, b"", headers)


if __name__ == "__main__":
    port, Gateway.cdn, Gateway.backend = map(int, sys.argv[1:])
    cdn = ThreadingHTTPServer(("127.0.0.1", Gateway.cdn), Cdn)
    threading.Thread(target=cdn.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", port), Gateway).serve_forever()
