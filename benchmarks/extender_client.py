"""A client of the scheduler extender in a process of its own, with few imports: what it does is not the server's work.

`python -m benchmarks.extender_client HOST:PORT BODY.json CALLS` asks both verbs CALLS times; prints seconds as JSON."""

import http.client
import json
import sys
import time
from pathlib import Path


def main(address: str, body_file: str, calls: int) -> None:
    """Ask and print."""
    body = Path(body_file).read_bytes()
    connection = http.client.HTTPConnection(address, timeout=120)
    took: list[float] = []
    for _ in range(calls):
        for verb in ("filter", "prioritize"):
            started = time.perf_counter()
            connection.request("POST", f"/{verb}", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - started)
            if answer.status != 200:
                raise SystemExit(f"the extender answered {answer.status}")
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
