"""Rows about clocks: the database's decides when a key ends, also where it is an hour off the server's."""

import json
import threading
import time
from datetime import datetime

import lab
from lab import row

PATH = "/auth/verify"
HOUR = 3600


def end_of(made, field="expires_at"):
    return datetime.fromisoformat(made[field]).timestamp()


class Asking:
    """Asks about a key again and again until a second after its end: how often, let in late, and refused early."""

    def __init__(self, server, key, end, off):
        self.server, self.key, self.end, self.off = server, key, end, off
        self.asked = self.let_in = self.late = self.early = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        connection = lab.Connection(self.server.address)
        request = lab.request("GET", PATH, self.key)
        now = lambda: time.time() + self.off
        while (before := now()) < self.end + 1:
            status, _ = connection.ask(request)
            self.asked += 1
            self.let_in += status == 204
            self.late += status != 401 and before >= self.end
            self.early += status != 204 and now() < self.end
            # Often where it matters.
            time.sleep(0.001 if abs(before - self.end) < 0.1 else 0.02)
        connection.close()


def made(server, admin, path="/auth/keys", **body):
    status, answer = server.ask("POST", path, admin, body)
    assert status == 201, (status, answer)
    return json.loads(answer)


def make_all(server, bounded, admin, off):
    """Keys of every kind that ends soon, with their ends."""
    life = made(server, admin, name="life", expires_in="3s")
    yield life["key"], end_of(life)
    at = int(time.time() + off) + 3
    until = made(server, admin, name="until", expires_at=datetime.fromtimestamp(at).astimezone().isoformat())
    assert end_of(until) == at, until
    yield until["key"], at
    old = made(server, admin, name="old", expires_in="1d")
    new = made(server, admin, f"/auth/keys/{old['id']}/rotate", grace="3s")
    yield old["key"], end_of(new, "old_key_expires_at")
    # No expiry of their own.
    bound = made(bounded, admin, name="bound")
    yield bound["key"], end_of(bound)
    endless = made(server, admin, name="endless")
    successor = made(bounded, admin, f"/auth/keys/{endless['id']}/rotate")
    yield successor["key"], end_of(successor)


def hour_off(_cluster, short):
    rounds = 3 if short else 15
    for off in (HOUR, -HOUR):
        cluster = lab.Cluster(off=off)
        name = cluster.database()
        differs = float(cluster.sql(name, "SELECT extract(epoch FROM clock_timestamp())")) - time.time()
        assert abs(differs - off) < 5, f"faketime does not work: the clocks differ by {differs} s"
        cached = lab.Server(cluster.url(name))
        asking = lab.Server(cluster.url(name), "--auth-cache-size", "0")
        bounded = lab.Server(cluster.url(name), "--max-key-lifetime", "3s")
        admin = cached.key()
        askings = []
        for _ in range(rounds):
            for key, end in make_all(cached, bounded, admin, off):
                askings += [Asking(server, key, end, off) for server in (cached, asking, bounded)]
            time.sleep(0.3)
        for one in askings:
            one.thread.join()
        asked, late, early = (sum(getattr(one, what) for one in askings) for what in ("asked", "late", "early"))
        hits = cached.metric("cloacina_auth_cache_hits_total"), asking.metric("cloacina_auth_cache_hits_total")
        every = all(one.let_in and one.asked > one.let_in for one in askings)
        row(
            f"the database's clock an hour {'ahead' if off > 0 else 'behind'}, {rounds * 5} keys that end, three servers",
            f"{asked} asked, let in late {late}, refused early {early}; hits with a cache {hits[0]:.0f}, without {hits[1]:.0f}",
            not late and not early and every and hits[0] > 0 and not hits[1],
        )
        for thing in (cached, asking, bounded, cluster):
            thing.stop()


ROWS = [hour_off]
