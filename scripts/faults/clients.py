"""Rows about clients: slow ones, too many, and such as talk nonsense."""

import re
import select
import shutil
import socket
import subprocess
import threading
import time

import lab
import load
from lab import row, share, spread


def good_clients(server, key, seconds):
    """Ordinary requests on new connections meanwhile, from a process of their own."""
    return load.beside(load.probe, server.address, seconds, [("/health", None), ("/auth/verify", key), ("/auth/keys?limit=5", key)])


def slow_clients(cluster, short):
    half = 200 if short else 1000
    server, key, _ = lab.database_with(cluster)
    heads = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: "
    bodies = b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    slow = {}
    for number in range(2 * half):
        one = socket.create_connection(server.address)
        one.sendall(heads if number % 2 else bodies)
        one.setblocking(False)
        slow[one] = time.monotonic()
    good = good_clients(server, key, 13)
    lives, peak, next_byte = [], 0, 0.0
    while slow and time.monotonic() - max(slow.values()) < 30:
        if time.monotonic() >= next_byte:
            next_byte = time.monotonic() + 2
            for one in slow:
                try:
                    one.send(b"x")
                except OSError:
                    pass
        for one in readable(slow):
            try:
                over = not one.recv(4096)
            except BlockingIOError:
                over = False
            except OSError:
                over = True
            if over:
                lives.append(time.monotonic() - slow.pop(one))
                one.close()
        peak = max(peak, server.footprint()[1])
    times, wrong = good()
    worst = max(share(of, 0.99) for of in times.values())
    ended = f"gone after {min(lives, default=0):.1f} to {max(lives, default=99):.1f} s"
    for path, of in times.items():
        print(f"        {path.split('?')[0]}: {len(of)} requests, {spread(of)}")
    # 10 s, looked at ten times a second, and the answer may be read for 2 s more.
    ok = not slow and max(lives) < 11 + lab.limit(3) and worst < lab.limit(100) and not wrong and peak < 96
    row(f"{half} slow heads and {half} trickled bodies", f"good clients' worst p99 {worst:.1f} ms, wrong {len(wrong)}, {ended}, peak {peak:.0f} MiB", ok)
    server.stop()


def readable(sockets):
    poll = select.epoll()
    by_number = {one.fileno(): one for one in sockets}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    found = [by_number[number] for number, _ in poll.poll(0.2)]
    poll.close()
    return found


def say(address, data, limit=10.0):
    """Sends these bytes; all that comes back until the end."""
    one = socket.create_connection(address, limit)
    said = b""
    try:
        one.sendall(data)
    except OSError:
        pass
    try:
        while more := one.recv(65536):
            said += more
    except OSError:
        pass
    one.close()
    return said


def poison(cluster, short):
    times = 50 if short else 500
    server, key, _ = lab.database_with(cluster, flags=("--request-timeout", "3s"))
    odd = ", ".join(f"trailers;q=0.{n}{n}1e7" for n in range(24))
    kinds = {
        "PRI * HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/3.0": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        "TE with 24 odd q-values": f"GET /auth/keys HTTP/1.1\r\nHost: a\r\nTE: {odd}\r\nConnection: close\r\n\r\n".encode(),
        "a header line without end": b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (4 << 20),
        "100,000 header lines": b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n",
        "upgrade with an endless body": b"GET /auth/keys HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + b"\0\1" * (2 << 20),
        "Content-Length of 30 GB": b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000000\r\n\r\nx",
        "Content-Length of 2^64-1": b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\nx",
    }
    for data in kinds.values():
        say(server.address, data)
    before = server.footprint()
    wrong = 0
    for kind, data in kinds.items():
        # An upgrade that nobody takes up leaves a request without a body; what follows is a second one, and malformed.
        answers = 2 if kind.startswith("upgrade") else 1
        for _ in range(times):
            statuses = re.findall(rb"HTTP/1\.1 (\d)\d\d ", say(server.address, data))
            wrong += len(statuses) > answers or not set(statuses) <= {b"4", b"5"}
    # 300 MiB of one header line, as long as anybody takes it.
    one = socket.create_connection(server.address)
    one.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX: ")
    taken = 0
    try:
        while taken < 300 << 20:
            taken += one.send(b"x" * 65536)
    except OSError:
        pass
    lab.wait_for("the connections to end", lambda: server.metric("cloacina_http_connections_open") <= 1)
    after = server.footprint()
    ok = not wrong and server.alive() and after[2] == before[2] and after[3] <= before[3] + 2 and after[0] < before[0] + 8
    ok = ok and server.ask("GET", "/auth/keys", key)[0] == 200
    figures = f"wrongly answered {wrong}; memory {before[0]:.0f} -> {after[0]:.0f} MiB, threads {before[2]} -> {after[2]}, descriptors {before[3]} -> {after[3]}"
    row(f"{len(kinds)} kinds of poison, each {times} times; of 300 MiB of header {taken / (1 << 20):.1f} were taken", figures, ok)
    server.stop()


def many_connections(cluster, short):
    name = cluster.database()
    server = lab.Server(cluster.url(name), before=["sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh"])
    with open(f"/proc/{server.process.pid}/limits", encoding="ascii") as file:
        limit = next(line.split()[3] for line in file if line.startswith("Max open files"))
    key = server.key()
    pid, crowd = server.process.pid, []
    for _ in range(5000):
        crowd.append(socket.create_connection(server.address, 30))
    during = [lab.timed(server.address, "GET", "/auth/keys?limit=1", key) for _ in range(20)]
    crowd_size, descriptors = len(crowd), server.footprint()[3]
    gone = time.monotonic()
    for one in crowd:
        one.close()
    status, took = lab.timed(server.address, "GET", "/auth/keys?limit=1", key)
    back = time.monotonic() - gone
    ok = status == 200 and back < lab.limit(2) and server.alive() and server.process.pid == pid and all(s == 200 for s, _ in during)
    figures = f"descriptors {descriptors}, limit raised to {limit}; meanwhile {spread([t for _, t in during])}; answered {back * 1000:.0f} ms after they began to go"
    row(f"{crowd_size} connections with a file limit of 1,024, then all gone", figures, ok and int(limit) > 1024)
    server.stop()


def overload(cluster, short):
    server, key, _ = lab.database_with(cluster, keys=200)
    connections, seconds = (500, 5) if short else (2000, 15)
    health = load.beside(load.probe, server.address, seconds, [("/health", None)])
    outcomes, lost = load.beside(load.press, server.address, [lab.request("GET", "/auth/keys", key)], connections, seconds)()
    times, wrong = health()
    served, turned_away = outcomes.get(200, []), outcomes.get(503, [])
    seconds_each = f"served {len(served)} ({spread(served)}), 503 {len(turned_away)} ({spread(turned_away)})"
    figures = f"{seconds_each}; /health {spread(times['/health'])}; lost {lost}"
    ok = set(outcomes) <= {200, 503} and share(served, 0.99) < lab.limit(1000) and share(times["/health"], 0.99) < lab.limit(100) and not wrong and not lost
    if not short:
        ok = ok and turned_away and share(turned_away, 0.99) < 1000
    row(f"{connections} connections asking for lists", figures, bool(ok))
    server.stop()


def greedy(cluster, short):
    server, key, _ = lab.database_with(cluster, keys=100, flags=("--workers", "1"))
    count = 10_000 if short else 100_000
    data = lab.request("GET", "/auth/keys", key) * count
    good = good_clients(server, key, 6)
    one = socket.create_connection(server.address)
    one.setblocking(False)
    began, sent, peak = time.monotonic(), 0, 0
    while time.monotonic() - began < 30:
        try:
            sent += one.send(data[sent : sent + 65536])
        except BlockingIOError:
            pass
        except OSError:
            break
        peak = max(peak, server.footprint()[1])
        time.sleep(0.01)
    lasted = time.monotonic() - began
    times, wrong = good()
    worst = max(share(of, 0.99) for of in times.values())
    ok = lasted < 15 and worst < lab.limit(100) and not wrong and peak < 96
    row(f"{count} pipelined lists of which nothing is read, one worker", f"ended after {lasted:.1f} s, others' worst p99 {worst:.1f} ms, peak {peak:.0f} MiB", ok)
    server.stop()


def starving(cluster, short):
    """Requests without a pause, whose answers are read: the gate's one thread is never idle."""
    server, key, _ = lab.database_with(cluster)
    stop = threading.Event()
    data = lab.request("GET", "/health") * 5000

    def ask_on():
        one = socket.create_connection(server.address)
        threading.Thread(target=read_on, args=(one,), daemon=True).start()
        try:
            while not stop.is_set():
                one.sendall(data)
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def read_on(one):
        try:
            while one.recv(1 << 20):
                pass
        except OSError:
            pass

    threads = [threading.Thread(target=ask_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    times, wrong = load.beside(load.probe, server.address, 4, [("/health", None)])()
    stop.set()
    for thread in threads:
        thread.join()
    answered = server.metric("cloacina_http_requests_total", "/health")
    figures = f"they got {answered:.0f} answers; others' /health {spread(times['/health'])}"
    row("two clients that never stop asking", figures, not wrong and share(times["/health"], 0.99) < lab.limit(100))
    server.stop()


def refused(cluster, short):
    server, _, _ = lab.database_with(cluster)
    total = 50_000 if short else 1_000_000
    bad_key = "clk_" + "A" * 49
    requests = [lab.request("GET", "/auth/keys"), lab.request("GET", "/auth/keys", bad_key), lab.request("GET", "/nowhere")]
    before, began, count = server.log_size(), time.monotonic(), 0
    while count < total:
        presses = [load.beside(load.press, server.address, requests, 32, 5 if short else 20) for _ in range(2)]
        count += sum(len(of) for press in presses for of in press()[0].values())
    rate = (server.log_size() - before) / 1024 / (time.monotonic() - began)
    took = time.monotonic() - began
    row(f"{count} refused requests", f"{count / took:.0f} a second, log grew by {rate:.2f} KiB a second, both outputs together", rate < 4)
    server.stop()


def slowhttptest(cluster, short):
    if not shutil.which("slowhttptest"):
        return row("slowhttptest", "is not installed", False)
    server, key, _ = lab.database_with(cluster)
    count, seconds = (200, 12) if short else (1000, 25)
    url = "http://%s:%s/auth/keys" % server.address
    found = []
    for mode in ("-H", "-B", "-X"):
        command = ["slowhttptest", mode, "-c", str(count), "-r", "500", "-i", "2", "-l", str(seconds), "-p", "1", "-u", url]
        good = good_clients(server, key, seconds - 2)
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said)
        times, wrong = good()
        available = re.findall(r"service available:\s*(YES|NO)", said)
        worst = max(share(of, 0.99) for of in times.values())
        found.append((mode, available[-1:] == ["YES"] and "NO" not in available, worst, not wrong))
    figures = ", ".join(f"{mode} {'available' if up else 'UNAVAILABLE'} p99 {worst:.1f} ms" for mode, up, worst, _ in found)
    row(f"slowhttptest with {count} connections (slow heads, bodies, reads)", figures, all(up and fine for _, up, _, fine in found))
    server.stop()


ROWS = [slow_clients, poison, many_connections, overload, greedy, starving, refused, slowhttptest]
