"""Mixed load for minutes: memory, descriptors and threads after the first minute and at the end are the same."""

import random
import time

import lab
import load
from lab import row, share

# What an allocator may still find to keep after its first minute: 10 % and 4 MiB. Threads not at all; descriptors by
# the sessions and clients of the moment.
MEMORY_SHARE, MEMORY_MIB, DESCRIPTORS = 1.10, 4.0, 8


def churn_keys(address, admin, seconds):
    """Makes, uses, rotates and revokes keys: how often, and what was answered wrongly."""
    until, count, wrong = time.monotonic() + seconds, 0, []
    connection = lab.Connection(address)
    while time.monotonic() < until:
        import json

        status, body = connection.ask(lab.request("POST", "/auth/keys", admin, {"name": f"soak-{count}", "permissions": "read"}))
        if status != 201:
            wrong.append(("create", status))
            continue
        made = json.loads(body)
        for wanted, method, path, key in (
            (204, "GET", "/auth/verify", made["key"]),
            (200, "DELETE", f"/auth/keys/{made['id']}", admin),
            (401, "GET", "/auth/verify", made["key"]),
        ):
            status, _ = connection.ask(lab.request(method, path, key))
            if status != wanted:
                wrong.append((path, status))
        count += 4
    return count, wrong


def talk_nonsense(address, seconds):
    until, count = time.monotonic() + seconds, 0
    rng = random.Random(7)
    while time.monotonic() < until:
        for data in (b"nonsense\r\n\r\n", b"GET /health HTTP/2.0\r\n\r\n", rng.randbytes(300), b"GET /hea"):
            one = lab.Connection(address)
            one.socket.sendall(data)
            one.close()
            count += 1
        time.sleep(0.02)
    return count


def soak(cluster, minutes):
    server, admin, name = lab.database_with(cluster, keys=50)
    seconds = minutes * 60
    verifier = server.create(admin)[1]
    reads = [lab.request("GET", "/health"), lab.request("GET", "/auth/verify", verifier), lab.request("GET", "/auth/verify", verifier),
             lab.request("GET", "/auth/keys?limit=10", admin), lab.request("GET", "/ready"), lab.request("GET", "/nowhere"),
             lab.request("GET", "/auth/verify", "clk_unknown-key-of-nobody")]
    began = time.monotonic()
    keeping = load.beside(load.press, server.address, reads, 32, seconds)
    churning = load.beside(load.press, server.address, reads, 16, seconds, 0.0, 20)
    keys = load.beside(churn_keys, server.address, admin, seconds)
    nonsense = load.beside(talk_nonsense, server.address, seconds)
    first_after = min(60, seconds / 3)
    time.sleep(first_after)
    first = server.footprint()
    print(f"        after {first_after:.0f} s: {first[0]:.1f} MiB, {first[2]} threads, {first[3]} descriptors", flush=True)
    # Before the load ends, so that both moments have the same clients.
    time.sleep(max(0, seconds - 2 - (time.monotonic() - began)))
    last = server.footprint()
    print(f"        at the end: {last[0]:.1f} MiB, {last[2]} threads, {last[3]} descriptors", flush=True)
    total, statuses, lost = 0, {}, 0
    for part in (keeping, churning):
        outcomes, ended = part()
        lost += ended
        for status, times in outcomes.items():
            statuses[status] = statuses.get(status, 0) + len(times)
            total += len(times)
    made, wrong = keys()
    total += made + nonsense()
    flat = last[0] <= first[0] * MEMORY_SHARE + MEMORY_MIB and last[2] == first[2] and last[3] <= first[3] + DESCRIPTORS
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    fine = flat and not wrong and not lost and set(statuses) <= {200, 204, 401, 404} and server.alive()
    figures = (
        f"{total} requests ({told}; {made} with keys that come and go, wrong {wrong[:3]}), lost {lost}; memory {first[0]:.1f} -> {last[0]:.1f} MiB, "
        f"threads {first[2]} -> {last[2]}, descriptors {first[3]} -> {last[3]}"
    )
    row(f"a soak of {minutes:g} minutes", figures, fine)
    server.stop()
