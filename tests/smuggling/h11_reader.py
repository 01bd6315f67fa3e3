"""Reads HTTP/1.1 with h11.

A line of JSON in: `{"role": "requests" | "responses", "parts": [base64], "methods": [str], "ended": bool,
"patience_ms"}`, the bytes of one connection, a message a part; `methods` are those that the responses answer; `ended`
where the peer has closed; `patience_ms` is for a message that has no end, where a parser does not say so. A line of
JSON out: `{"messages": [{"start", "fields", "body"}], "error"}`, text being bytes as Latin-1, body base64; trailers are
fields.
"""

import base64
import json
import sys

import h11

LIMIT = 1 << 20


def text(data):
    return bytes(data).decode("latin-1")


def message(connection):
    """The next message; None where it has not all come."""
    start, fields, body = None, [], b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return None
        if isinstance(event, (h11.Request, h11.Response)):
            start = f"{text(event.method)} {text(event.target)}" if isinstance(event, h11.Request) else str(event.status_code)
            fields = [[text(name), text(value)] for name, value in event.headers.raw_items()]
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            fields += [[text(name), text(value)] for name, value in event.headers.raw_items()]
            return {"start": start, "fields": fields, "body": base64.b64encode(body).decode()}


def read(job, messages):
    data = b"".join(base64.b64decode(part) for part in job["parts"])
    serves = job["role"] == "requests"
    connection = h11.Connection(h11.SERVER if serves else h11.CLIENT, max_incomplete_event_size=LIMIT)
    connection.receive_data(data)
    if job["ended"]:
        connection.receive_data(b"")
    for index in range(len(job["parts"])):
        if not serves:
            connection.send(h11.Request(method=job["methods"][index], target="/", headers=[("host", "a")]))
            connection.send(h11.EndOfMessage())
        found = message(connection)
        if found is None:
            raise ValueError("the message has no end")
        messages.append(found)
        if serves:
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
    if connection.trailing_data[0]:
        raise ValueError(f"left over: {connection.trailing_data[0][:80]!r}")


for line in sys.stdin:
    messages, error = [], None
    try:
        read(json.loads(line), messages)
    except (h11.ProtocolError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps({"messages": messages, "error": error}), flush=True)
