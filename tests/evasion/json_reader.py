"""Reads request bodies as Python does: a line of base64 in, a line of JSON out."""

import base64
import json
import sys

for line in sys.stdin:
    try:
        body = json.loads(base64.b64decode(line))
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        print("null")
        continue
    model = body.get("model")
    if isinstance(model, str):
        model = model.encode("utf-8", "replace").decode()
    numbers = {key: body.get(key) for key in ("max_tokens", "n")}
    # Beyond what the other end can read is as good as none.
    numbers = {key: value if isinstance(value, int) and abs(value) < 2**63 else None for key, value in numbers.items()}
    print(json.dumps({"model": model if isinstance(model, str) else None, "stream": bool(body.get("stream")), **numbers}))
