"""A load generator for loopback that costs little itself: epoll, raw sockets, one request under
way on each kept-alive connection; one process, or several that share the connections."""

from __future__ import annotations

import heapq
import json
import select
import socket
import subprocess
import sys
import time
from typing import Any


class Connection:
    """A connection with the request that is under way on it."""

    __slots__ = ("at", "begun", "data", "need", "sock")

    def __init__(self, port: int, number: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.at = number * 17
        self.begun = 0.0
        self.need = 0
        self.data: list[bytes] = []

    def send(self, request: bytes) -> None:
        self.begun = time.perf_counter()
        self.at += 1
        self.need = 0
        self.data.clear()
        sent = self.sock.send(request)
        if sent < len(request):  # a request larger than the socket's buffer
            self.sock.setblocking(True)
            self.sock.sendall(request[sent:])
            self.sock.setblocking(False)

    def received(self, data: bytes) -> bool:
        """Takes what came; whether the answer is whole."""
        self.data.append(data)
        if self.need:
            self.need -= len(data)
            return self.need <= 0
        whole = data if len(self.data) == 1 else b"".join(self.data)
        head = whole.find(b"\r\n\r\n")
        if head < 0:
            return False
        fields = whole[:head].lower()
        at = fields.find(b"content-length:")
        if at < 0:  # chunked
            return whole.endswith(b"\r\n0\r\n\r\n")
        self.need = head + 4 + int(fields[at + 15 :].split(b"\r\n", 1)[0]) - len(whole)
        return self.need <= 0


def run(
    port: int,
    path: str,
    bodies: list[bytes],
    concurrency: int,
    seconds: float,
    first: int = 0,
    rate: float = 0.0,
) -> dict[str, Any]:
    """Each connection asks again as soon as it has its answer, or with ``rate`` when its turn has
    come at so many requests a second in all, whatever became of those before.

    Gives the seconds it took, the latencies of the answers with status 200, counts by status and
    how many connections never got their last answer.
    """
    requests = [
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
        for body in bodies
    ]
    poll = select.epoll()
    connections: dict[int, Connection] = {}
    for number in range(first, first + concurrency):
        made = Connection(port, number)
        poll.register(made.sock, select.EPOLLIN)
        connections[made.sock.fileno()] = made
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    begin = time.perf_counter()
    end = begin + seconds
    pause = concurrency / rate if rate else 0.0
    due = [
        (begin + pause * place / concurrency, number) for place, number in enumerate(connections)
    ]  # who asks next, and when: a heap
    busy = len(connections)
    while busy and time.perf_counter() < end + 70:
        while due and due[0][0] <= time.perf_counter():
            connection = connections[heapq.heappop(due)[1]]
            connection.send(requests[connection.at % len(requests)])
        wait = min(1.0, due[0][0] - time.perf_counter()) if due else 1.0
        for number, _ in poll.poll(max(0.0, wait)):
            connection = connections[number]
            try:
                data = connection.sock.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                statuses["0"] = statuses.get("0", 0) + 1
                poll.unregister(number)
                busy -= 1
                continue
            if not connection.received(data):
                continue
            now = time.perf_counter()
            status = connection.data[0][9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
            if status == "200":
                latencies.append(now - connection.begun)
            again = max(now, connection.begun + pause)
            if again >= end:
                poll.unregister(number)
                busy -= 1
            elif pause:
                heapq.heappush(due, (again, number))
            else:
                connection.send(requests[connection.at % len(requests)])
    spent = time.perf_counter() - begin
    for connection in connections.values():
        connection.sock.close()
    return {"spent": spent, "latencies": latencies, "statuses": statuses, "hung": busy}


def summary(parts: list[dict[str, Any]], concurrency: int) -> dict[str, Any]:
    """Requests a second with status 200, their latencies in milliseconds, counts by status."""
    latencies = sorted(one for part in parts for one in part["latencies"])
    statuses: dict[str, int] = {}
    for part in parts:
        for status, count in part["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count

    def percentile(share: float) -> float:
        if not latencies:
            return float("nan")
        return round(latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1e3, 2)

    return {
        "concurrency": concurrency,
        "rps": round(sum(len(part["latencies"]) / part["spent"] for part in parts), 1),
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "statuses": statuses,
        "hung": sum(part["hung"] for part in parts),
    }


def main() -> None:
    asked = json.loads(sys.stdin.read())
    processes = asked.pop("processes", 1)
    if processes == 1:
        raw = asked.pop("raw", False)
        asked["bodies"] = [body.encode() for body in asked["bodies"]]
        before = time.process_time()
        made = run(**asked)
        made["cpu"] = time.process_time() - before
        if not raw:
            cpu = made["cpu"]
            made = {**summary([made], asked["concurrency"]), "cpu": round(cpu, 3)}
        print(json.dumps(made))
        return
    concurrency = asked["concurrency"]
    share = concurrency // processes
    running = [
        subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for number, process in enumerate(running):
        assert process.stdin is not None
        part = {**asked, "concurrency": share, "first": number * share, "raw": True}
        process.stdin.write(json.dumps(part))
        process.stdin.close()
    parts = [json.loads(process.stdout.read()) for process in running if process.stdout]
    made = summary(parts, share * processes)
    print(json.dumps({**made, "cpu": round(sum(part["cpu"] for part in parts), 3)}))


if __name__ == "__main__":
    main()
