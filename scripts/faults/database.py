"""Rows about a database that is stopped, restarted, hung, or gone with its host."""

import os
import random
import signal
import subprocess
import threading
import time

import lab
import load
from lab import row, share, spread


class Watch:
    """Asks one thing again and again: [(moment, status, seconds)]."""

    def __init__(self, server, path, key=None, pause=0.05):
        self.server, self.path, self.key, self.pause = server, path, key, pause
        self.seen, self.over = [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.over.is_set():
            began = time.monotonic()
            try:
                status, _ = self.server.ask("GET", self.path, self.key)
            except OSError as error:
                status = repr(error)
            self.seen.append((began, status, time.monotonic() - began))
            time.sleep(self.pause)

    def end(self):
        self.over.set()
        self.thread.join()
        return self.seen

    def first(self, status, since):
        """When, after that moment, it was answered so for the first time."""
        return next((at + took - since for at, said, took in self.seen if said == status and at >= since - took), None)

    def last_not(self, status, since):
        """How long after that moment somebody asked last and was answered otherwise."""
        return max((at - since for at, said, _ in self.seen if said != status and at >= since), default=0.0)


def watch_all(server, key):
    paths = (("/ready", None), ("/auth/keys?limit=2", key), ("/auth/verify", key), ("/health", None), ("/metrics", None))
    return {path: Watch(server, path, who) for path, who in paths}


def tell(what, watches, broke, mended, ready_limit, back_limit):
    """What was seen between these two moments, and after the second."""
    for watch in watches.values():
        watch.end()
    health = [took for path in ("/health", "/metrics") for at, _, took in watches[path].seen if at >= broke]
    unready = watches["/ready"].first(503, broke)
    slowest = max(took for path in ("/auth/keys?limit=2", "/auth/verify") for at, _, took in watches[path].seen if broke <= at < mended)
    # Who asked in that time and was let in, though nobody could know whether the key was revoked. The database may take
    # connections a moment before its start is over: a listing, which no memory has, tells when.
    listed = [at + took for at, said, took in watches["/auth/keys?limit=2"].seen if at > broke + 0.5 and said == 200]
    away_until = min([mended, *listed])
    let_in = [at - broke for at, said, took in watches["/auth/verify"].seen if broke < at and at + took < away_until and said == 204]
    back = max(watches[path].last_not(good, mended) for path, good in (("/auth/keys?limit=2", 200), ("/auth/verify", 204), ("/ready", 200)))
    wrong = {said for path in ("/auth/keys?limit=2", "/auth/verify") for _, said, _ in watches[path].seen} - {200, 204, 503}
    figures = (
        f"/ready 503 after {unready if unready is None else round(unready, 2)} s; slowest answer {slowest:.2f} s; last let in by memory after "
        f"{max(let_in, default=0):.2f} s; /health and /metrics {spread(health)}; last failure {back:.2f} s after it was back"
    )
    # A restart may be over before /ready has turned.
    turned = mended - broke < 2 if unready is None else unready < lab.limit(ready_limit)
    # What is let in by memory later than a lease after the last news was not to be trusted.
    ok = turned and max(let_in, default=0) < 3.3 and slowest < lab.limit(5.2) and share(health, 0.99) < lab.limit(100) and back < lab.limit(back_limit) and not wrong
    row(what, figures + (f"; WRONG {wrong}" if wrong else ""), ok)


def stopped(cluster, short):
    server, key, _ = lab.database_with(cluster)
    lab.wait_for("it to be ready", lambda: server.ask("GET", "/ready")[0] == 200)
    watches = watch_all(server, key)
    time.sleep(1)
    broke = time.monotonic()
    cluster.stop()
    time.sleep(5)
    cluster.start()
    mended = time.monotonic()
    time.sleep(3)
    tell("PostgreSQL stopped for 5 s (as by a power cut)", watches, broke, mended, 2.1, 1.0)
    server.stop()


def restarted(cluster, short):
    server, key, name = lab.database_with(cluster)
    requests = [lab.request("GET", "/auth/keys?limit=5", key), lab.request("POST", "/auth/keys", key, {"name": "loaded"})]
    pressing = load.beside(load.press, server.address, requests, 32, 12)
    watches = watch_all(server, key)
    time.sleep(2)
    broke = time.monotonic()
    cluster.stop("fast")
    cluster.start()
    mended = time.monotonic()
    outcomes, lost = pressing()
    made = len(outcomes.get(201, []))
    rows = int(cluster.sql(name, "SELECT count(*) FROM api_keys WHERE name = 'loaded'"))
    asked = sum(map(len, outcomes.values()))
    # What was answered 201 is there; what was answered 503 may be, once.
    fine = set(outcomes) <= {200, 201, 503} and made <= rows <= made + len(outcomes.get(503, [])) + 32
    row(f"writes across a restart of PostgreSQL, {asked} requests", f"201 {made}, rows {rows}, 503 {len(outcomes.get(503, []))}, lost {lost}", fine and not lost)
    tell(f"PostgreSQL restarted under load ({mended - broke:.1f} s)", watches, broke, mended, 99, 1.0)
    server.stop()


def hung(cluster, short):
    server, key, _ = lab.database_with(cluster)
    lab.wait_for("it to be ready", lambda: server.ask("GET", "/ready")[0] == 200)
    seconds = 8 if short else 30
    pressing = load.beside(load.press, server.address, [lab.request("GET", "/auth/keys?limit=5", key)], 200, seconds + 5)
    watches = watch_all(server, key)
    time.sleep(2)
    broke = time.monotonic()
    cluster.signal(signal.SIGSTOP)
    time.sleep(seconds)
    cluster.signal(signal.SIGCONT)
    mended = time.monotonic()
    outcomes, lost = pressing()
    time.sleep(1)
    tell(f"PostgreSQL hung for {seconds} s with 200 clients asking (lost {lost})", watches, broke, mended, 2.1, 2.0)
    server.stop()


def host_gone(_cluster, short):
    """PostgreSQL in a network namespace, which from one moment on sends nothing back: neither an answer nor a refusal."""
    if os.geteuid() != 0:
        return row("the database's host is gone", "needs root", False)
    name, number = f"flt{os.getpid() % 100000}", random.randrange(1, 250)
    ours, theirs = f"10.213.{number}.1", f"10.213.{number}.2"

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        ip("link", "set", f"{name}b", "netns", name)
        ip("addr", "add", f"{ours}/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{theirs}/30", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "link", "set", "lo", "up")
        far = lab.Cluster(theirs, before=["ip", "netns", "exec", name])
        server, key, _ = lab.database_with(far)
        lab.wait_for("it to be ready", lambda: server.ask("GET", "/ready")[0] == 200)
        watches = watch_all(server, key)
        time.sleep(1)
        broke = time.monotonic()
        ip("-n", name, "route", "add", "blackhole", f"{ours}/32")
        seconds = 15 if short else 40
        time.sleep(seconds)
        ip("-n", name, "route", "del", "blackhole", f"{ours}/32")
        mended = time.monotonic()
        time.sleep(8)
        tell(f"the database's host drops every packet for {seconds} s", watches, broke, mended, 15, 6.0)
        server.stop()
        far.stop()
    finally:
        ip("netns", "del", name)


def standby_gone(cluster, short):
    """Every commit waits for a synchronous standby that does not come. Who reads must not notice."""
    server, key, name = lab.database_with(cluster)
    lab.wait_for("it to be ready", lambda: server.ask("GET", "/ready")[0] == 200)
    seconds, clients = (8, 16) if short else (30, 64)
    creation = lab.request("POST", "/auth/keys", key, {"name": "without-standby"})
    paths = {"/auth/verify": (204, key), "/auth/whoami": (200, key), "/auth/keys?limit=5": (200, key), "/ready": (200, None)}
    cluster.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    cluster.sql("postgres", "SELECT pg_reload_conf()")
    try:
        pressing = load.beside(load.press, server.address, [creation], clients, seconds)
        hanging = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        lab.wait_for("a commit that hangs", lambda: cluster.sql("postgres", hanging) != "0")
        watches = {path: Watch(server, path, who) for path, (_, who) in paths.items()}
        outcomes, lost = pressing()
        seen = {path: watch.end() for path, watch in watches.items()}
        most = int(cluster.sql("postgres", hanging))
    finally:
        cluster.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
        cluster.sql("postgres", "SELECT pg_reload_conf()")
    wrong = [(path, said) for path, (good, _) in paths.items() for _, said, _ in seen[path] if said != good]
    slowest = max(took for looks in seen.values() for _, _, took in looks)
    made, refused = len(outcomes.get(201, [])), len(outcomes.get(503, []))
    longest = max((took for all in outcomes.values() for took in all), default=0.0)
    back = time.monotonic()
    lab.wait_for("keys to be made again", lambda: server.ask("POST", "/auth/keys", key, {"name": "again"})[0] == 201)
    back = time.monotonic() - back
    rows = int(cluster.sql(name, "SELECT count(*) FROM api_keys WHERE name = 'without-standby' AND revoked_at IS NULL"))
    figures = (
        f"{sum(map(len, seen.values()))} reads, slowest {slowest * 1000:.0f} ms, other answers {wrong[:3]}; creations 201 {made}, 503 {refused}, "
        f"lost {lost}, longest {longest:.1f} s, rows {rows}, still hanging {most}; made again after {back:.1f} s"
    )
    # Those that were under way when the clients went may have been made.
    told = set(outcomes) <= {201, 503} and made <= rows <= made + clients
    row(f"a synchronous standby gone for {seconds} s, {clients} clients creating", figures, not wrong and told and not lost and slowest < lab.limit(1) and longest < lab.limit(6))
    server.stop()


def small_pool(cluster, short):
    server, key, _ = lab.database_with(cluster, flags=("--pool-size", "2"))
    seconds = 5 if short else 15
    outcomes, lost = load.beside(load.press, server.address, [lab.request("GET", "/auth/keys?limit=5", key)], 200, seconds)()
    served = outcomes.get(200, [])
    ready = server.ask("GET", "/ready")[0]
    ok = set(outcomes) == {200} and not lost and ready == 200 and share(served, 1) < lab.limit(2000)
    others = {status: len(of) for status, of in outcomes.items() if status != 200}
    row("a pool of 2 sessions, 200 clients", f"{len(served) / seconds:.0f} a second, {spread(served)}; other answers {others}, lost {lost}", ok)
    server.stop()


ROWS = [stopped, restarted, hung, host_gone, standby_gone, small_pool]
