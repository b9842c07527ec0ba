"""Rows about several servers on one database: revoked is revoked, however their links fare."""

import random
import signal
import socket
import threading
import time

import lab
from lab import row, spread

# It needs no database once the key is in the cache.
PATH = "/auth/verify"


class Wire:
    """A TCP proxy whose connections can be cut, go dead without a word, for those that have sent some text, or be held up one
    way: what was sent meanwhile comes late."""

    def __init__(self, host, port):
        self.target, self.pairs = (host, port), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        # By whether it leads to the target.
        self.open = {True: threading.Event(), False: threading.Event()}
        self.let_through()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                pair = {"ends": (client, socket.create_connection(self.target)), "sent": b"", "dead": threading.Event()}
            except OSError:
                client.close()
                continue
            self.pairs.append(pair)
            for up in (True, False):
                threading.Thread(target=self.forward, args=(pair, up), daemon=True).start()

    def forward(self, pair, up):
        source, target = pair["ends"] if up else pair["ends"][::-1]
        try:
            while data := source.recv(65536):
                if up:
                    pair["sent"] += data[:65536]
                self.open[up].wait()
                if not pair["dead"].is_set():
                    target.sendall(data)
            self.open[up].wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        for pair in self.pairs:
            for one in pair["ends"]:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.pairs.clear()

    def go_dead(self, sent):
        for pair in self.pairs:
            if sent in pair["sent"]:
                pair["dead"].set()

    def hold_up(self, up):
        self.open[up].clear()

    def let_through(self):
        for event in self.open.values():
            event.set()

    def stop(self):
        self.listener.close()
        self.let_through()
        self.cut()


def warm(server, key):
    """Uses it until it is let in from memory."""

    def is_hit():
        before = server.metric("cloacina_auth_cache_hits_total")
        assert server.ask("GET", PATH, key)[0] == 204
        return server.metric("cloacina_auth_cache_hits_total") > before

    lab.wait_for("a key to be cached", is_hit)


def revoke(server, admin, made):
    began = time.monotonic()
    status, body = server.ask("DELETE", f"/auth/keys/{made}", admin)
    assert status == 200, (status, body)
    return time.monotonic() - began


def revocations(cluster, short):
    rounds = 40 if short else 200
    for count in (1, 2, 5):
        name = cluster.database()
        servers = [lab.Server(cluster.url(name)) for _ in range(count)]
        admin, took, let_in = servers[0].key(), [], 0
        for number in range(rounds):
            by = servers[number % count]
            made, key = by.create(admin)
            for server in servers:
                for _ in range(2):
                    assert server.ask("GET", PATH, key)[0] == 204
            took.append(revoke(by, admin, made))
            let_in += sum(server.ask("GET", PATH, key)[0] != 401 for server in servers)
        row(f"{rounds} revocations with {count} server{'s' * (count > 1)}", f"let in afterwards {let_in}; DELETE {spread(took)}", not let_in)
        for server in servers:
            server.stop()


def broken_links(cluster, short):
    rounds = 3 if short else 10
    name = cluster.database()
    one = lab.Server(cluster.url(name))
    wire = Wire("127.0.0.1", cluster.port)
    other = lab.Server(cluster.url(name, wire.port))
    admin = one.key()
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%auth_caches%'"
    faults = {
        "ended by the database": lambda: cluster.sql(name, kill),
        "cut": wire.cut,
        "dead without a word": lambda: wire.go_dead(b'LISTEN "cloacina_'),
        "there, and the server frozen": lambda: other.process.send_signal(signal.SIGSTOP),
    }
    for what, fault in faults.items():
        took, let_in = [], 0
        for _ in range(rounds):
            made, key = one.create(admin)
            warm(other, key)
            fault()
            took.append(revoke(one, admin, made))
            # Sent while it is frozen, if it is: it started after DELETE had answered.
            early = lab.Connection(other.address)
            early.socket.sendall(lab.request("GET", PATH, key))
            other.process.send_signal(signal.SIGCONT)
            let_in += early.ask(b"")[0] == 204
            let_in += other.ask("GET", PATH, key)[0] == 204
            early.close()
        warm(other, admin)
        # A lease of 3 s, and what follows it.
        row(f"{rounds} revocations while another server's link is {what}", f"let in afterwards {let_in}; DELETE {spread(took)}", not let_in and max(took) < 3.1 + lab.limit(0.9))
    for server in (one, other):
        server.stop()
    wire.stop()


def at_random(cluster, short):
    """32 threads that use and revoke the same keys, on two servers."""
    seconds = 6 if short else 30
    name = cluster.database()
    servers = [lab.Server(cluster.url(name)) for _ in range(2)]
    admin = servers[0].key()
    until = time.monotonic() + seconds
    uses, revoked_count, wrong, keys = [0] * 32, [0] * 32, [], []

    def fresh():
        made, key = servers[random.randrange(2)].create(admin)
        return {"id": made, "key": key, "revoked": False}

    keys.extend(fresh() for _ in range(16))

    def run(number):
        connections = [lab.Connection(server.address) for server in servers]
        while time.monotonic() < until:
            place = random.randrange(len(keys))
            chosen, connection = keys[place], connections[random.randrange(2)]
            if random.random() < 0.02:
                status, _ = connection.ask(lab.request("DELETE", f"/auth/keys/{chosen['id']}", admin))
                if status not in (200, 404):
                    wrong.append(status)
                chosen["revoked"] = True
                revoked_count[number] += 1
                time.sleep(0.01)
                if keys[place] is chosen:
                    keys[place] = fresh()
            else:
                was_revoked = chosen["revoked"]
                status, _ = connection.ask(lab.request("GET", PATH, chosen["key"]))
                uses[number] += 1
                if status not in (204, 401) or was_revoked and status == 204:
                    wrong.append((status, was_revoked))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row(f"32 threads using and revoking the same keys for {seconds} s", f"{sum(uses)} uses, {sum(revoked_count)} revocations, wrong {wrong[:5]}", not wrong and sum(uses) > 0)
    for server in servers:
        server.stop()


ROWS = [revocations, broken_links, at_random]
