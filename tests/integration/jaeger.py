"""What answers as Jaeger does, with the spans of a collector."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tracing.collector import SpanCollector


class FakeJaeger:
    """Listens on a free port, as a context manager.

    Attributes:
        url: where it answers.
        lost: spans of which it knows nothing.
        away: whether it refuses every question.
    """

    def __init__(self, collector: SpanCollector) -> None:
        self._collector = collector
        self.lost = lambda _span: False
        self.away = False
        jaeger = self

        class Api(BaseHTTPRequestHandler):
            def do_GET(self):
                if jaeger.away:
                    self.send_error(503)
                    return
                asked = parse_qsl(urlsplit(self.path).query)
                ids = [value for name, value in asked if name == "traceID"] or jaeger._newest(**dict(asked))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"data": [*jaeger._traces(ids)]}).encode())

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _newest(self, service, operation, limit):
        roots = [
            span
            for trace_id in self._collector.trace_ids()
            for span in self._collector.trace(trace_id)
            if (span.service, span.name) == (service, operation)
        ]
        roots.sort(key=lambda span: span.start_ns)
        return [span.trace_id for span in roots[-int(limit) :]]

    def _traces(self, ids):
        for trace_id in ids:
            spans = [span for span in self._collector.trace(trace_id) if not self.lost(span)]
            processes = {span.service: {"serviceName": span.service} for span in spans}
            if spans:
                yield {"traceID": trace_id, "processes": processes, "spans": [_as_jaeger(span) for span in spans]}


def _as_jaeger(span):
    tags = [{"key": key, "value": value} for key, value in span.attributes.items()]
    parent = [{"refType": "CHILD_OF", "traceID": span.trace_id, "spanID": span.parent_id}]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "processID": span.service,
        "references": parent if span.parent_id else [],
        "startTime": span.start_ns // 1_000,
        "duration": (span.end_ns - span.start_ns) // 1_000,
        "tags": tags,
        "logs": [],
    }
