"""Requests that are right, wrong, cut in pieces, and changed at random: the server stays up, answers those who ask
properly, and never answers more than was asked."""

import random
import re
import select
import socket
import time

import lab
from lab import row

MUTATED = b"\r\n:; ,/%\x00\t\xff+-0189aAfFxX\"'"
PIECES = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n", b"5\r\nabcde\r\n", b"FFFFFFFF\r\n", b" folded\r\n", b"-1", b"%00", b"../",
]


def corpus(key):
    get = [b"GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n" % (path, key) for path in
           (b"/health", b"/ready", b"/metrics", b"/auth/keys?limit=2", b"/auth/verify", b"/auth/whoami", b"/nowhere", b"http://a/health?x=y")]
    body = b'{"name":"fuzzed","permissions":"read"}'
    head = b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % key
    return [
        *get,
        head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        head + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\nX-T: y\r\n\r\n" % (body[:4], len(body) - 4, body[4:]),
        head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"DELETE /auth/keys/00000000-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n" % key,
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ]


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1) if data else 0
        kind = rng.randrange(7)
        if kind == 0:
            data[at:at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at:at + 1] = bytes([rng.choice(MUTATED)])
        elif kind == 2:
            data[at:at] = rng.choice(PIECES)
        elif kind == 3:
            del data[at:at + rng.randrange(1, 20)]
        elif kind == 4:
            data[at:at] = data[at:at + rng.randrange(1, 60)]
        elif kind == 5:
            data[at:at] = bytes([rng.randrange(256)]) * rng.choice((1, 10, 300, 20_000))
        else:
            del data[at:]
    return bytes(data)


def most_requests(sent):
    """How many requests could at most be in these bytes: each has a line that ends in a version, and an error may
    be answered where none is."""
    return len(re.findall(rb"HTTP/1\.[0-9]\r\n", sent)) + 1


def exchange(rng, address, messages):
    """Sends them, whole or in pieces, and reads what comes: the answers' statuses."""
    one = socket.create_connection(address, 10)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b"".join(messages)
    said = bytearray()
    pieces = [data] if rng.random() < 0.7 else split(rng, data)
    try:
        for piece in pieces:
            one.sendall(piece)
            if len(pieces) > 1 and rng.random() < 0.2:
                time.sleep(0.001)
        one.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    ended = False
    try:
        while select.select([one], [], [], 10)[0]:
            more = one.recv(65536)
            if not more:
                ended = True
                break
            said += more
    except OSError:
        ended = True
    one.close()
    return data, bytes(said), ended


def split(rng, data):
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)]) if b > a]


def run(address, key, seconds, seed):
    """Hands back (connections, messages, answers by status, faults)."""
    rng = random.Random(seed)
    good = corpus(key.encode())
    until, connections, messages, statuses, faults = time.monotonic() + seconds, 0, 0, {}, []
    while time.monotonic() < until and len(faults) < 5:
        if rng.random() < 0.03:
            chosen = [rng.randbytes(rng.randrange(1, 4000))]
        else:
            chosen = [mutate(rng, rng.choice(good)) if rng.random() < 0.8 else rng.choice(good) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        state = rng.getstate()
        sent, said, ended = exchange(rng, address, chosen)
        rng.setstate(state)
        rng.random()
        connections += 1
        messages += len(chosen)
        answers = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\nDate: ", said)]
        for status in answers:
            statuses[status] = statuses.get(status, 0) + 1
        if len(answers) > most_requests(sent):
            faults.append(("more answers than requests", seed, sent, answers))
        # Every head of an answer but the last one's: none of them may have said that it was the last.
        if b"\r\nConnection: close\r\n" in said[: said.rfind(b"\r\nDate: ")]:
            faults.append(("an answer after the one that closes", seed, sent, said))
        if not ended:
            faults.append(("neither an end nor an answer", seed, sent, said))
        if 500 in answers:
            faults.append(("500", seed, sent, said))
        if connections % 50 == 0:
            status, took = lab.timed(address, "GET", "/auth/verify", key)
            if status != 204:
                faults.append(("an ordinary client was answered", seed, status, took))
    return connections, messages, statuses, faults


def fuzz(cluster, seconds, seed):
    import load

    server, key, name = lab.database_with(cluster, flags=("--request-timeout", "3s"))
    before = server.footprint()
    runs = [load.beside(run, server.address, key, seconds, seed + number) for number in range(4)]
    connections = messages = 0
    statuses, faults = {}, []
    for one in runs:
        done = one()
        connections, messages = connections + done[0], messages + done[1]
        faults += done[3]
        for status, count in done[2].items():
            statuses[status] = statuses.get(status, 0) + count
    after = server.footprint()
    for fault in faults[:5]:
        print(f"        {fault!r:.1500}")
    made = int(cluster.sql(name, "SELECT count(*) FROM api_keys WHERE name <> 'bootstrap'"))
    ok = not faults and server.alive() and after[2] == before[2] and server.ask("GET", "/auth/verify", key)[0] == 204
    ok = ok and made <= statuses.get(201, 0) and "panicked" not in server.stderr()
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    row(f"fuzzed for {seconds} s with seed {seed}", f"{messages} requests on {connections} connections; answers {told}; faults {len(faults)}; memory {after[0]:.0f} MiB", ok)
    server.stop()
