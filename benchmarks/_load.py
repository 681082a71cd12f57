"""A load generator for loopback that costs little itself: one process, epoll, raw sockets, one
request under way on each kept-alive connection."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def load(
    port: int, path: str, bodies: list[bytes], concurrency: int, seconds: float
) -> dict[str, Any]:
    """Closed loop: each connection asks again as soon as it has its answer.

    Gives requests a second with status 200, latencies in milliseconds and counts by status.
    """
    requests = [
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
        for body in bodies
    ]
    poll = select.epoll()
    connections: dict[int, list[Any]] = {}
    for number in range(concurrency):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
        connections[sock.fileno()] = [sock, number * 17, 0.0, b""]
    latencies: list[float] = []
    statuses: dict[int, int] = {}

    def send(state: list[Any]) -> None:
        state[2] = time.perf_counter()
        state[0].send(requests[state[1] % len(requests)])
        state[1] += 1
        state[3] = b""

    begin = time.perf_counter()
    end = begin + seconds
    for state in connections.values():
        send(state)
    busy = len(connections)
    while busy and time.perf_counter() < end + 70:
        for number, _ in poll.poll(1.0):
            state = connections[number]
            data = state[0].recv(1 << 18)
            if not data:
                statuses[0] = statuses.get(0, 0) + 1
                poll.unregister(number)
                busy -= 1
                continue
            state[3] += data
            head = state[3].find(b"\r\n\r\n")
            if head < 0:
                continue
            at = state[3].find(b"content-length: ") + 16
            if len(state[3]) < head + 4 + int(state[3][at : state[3].index(b"\r\n", at)]):
                continue
            now = time.perf_counter()
            status = int(state[3][9:12])
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200:
                latencies.append(now - state[2])
            if now < end:
                send(state)
            else:
                poll.unregister(number)
                busy -= 1
    spent = time.perf_counter() - begin
    for state in connections.values():
        state[0].close()
    return {
        "concurrency": concurrency,
        "rps": round(len(latencies) / spent, 1),
        "p50_ms": round(percentile(latencies, 0.5) * 1e3, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1e3, 2),
        "statuses": statuses,
        "hung": busy,
    }


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    asked["bodies"] = [body.encode() for body in asked["bodies"]]
    print(json.dumps(load(**asked)))
