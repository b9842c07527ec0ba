"""Rows about executions on several hosts, of which some are stopped, lost and forgotten, and on hosts whose disk is full."""

import os
import random
import signal
import subprocess
import tempfile
import time

import lab
from executions import begin, finish
from ledger import kill, processes_of


def name_of(cluster, database, server):
    with open(f"{server.home}/host", encoding="ascii") as file:
        text = file.read()
    names = dict(line.split("|") for line in cluster.sql(database, "SELECT id, name FROM cloacina_hosts").splitlines())
    return next(name for host, name in names.items() if host in text)


def forget(cluster, database, server):
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    command = [lab.BINARY, "--home", home, "hosts", "forget", name_of(cluster, database, server), "--database-url", cluster.url(database)]
    subprocess.run(command, check=True, capture_output=True)


def hosts(what, cluster, count, rounds, fault, **options):
    """The first server is never touched; what becomes of the others is up to the fault, which returns what there is in a
    server's place."""
    place, name, server, load = begin(cluster, 6)
    others = [place.server(cluster.url(name), 6) for _ in range(count - 1)]
    for _ in range(rounds):
        time.sleep(0.5 + random.random())
        chosen = random.randrange(len(others))
        others[chosen] = fault(place, name, others[chosen])
    time.sleep(1)
    by_host = cluster.sql(name, "SELECT string_agg(count::text, ' and ') FROM (SELECT count(*) FROM cloacina_attempts GROUP BY host) AS counted")
    finish(f"{what}, {rounds} times, {count} servers", cluster, place, name, server, load, f" ({by_host} on each)", statuses=("Completed", "Failed"), **options)
    for other in others:
        other.stop()


def stopped_hosts(cluster, short):
    seconds = 4 if short else 20

    def stop(_place, _name, server):
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(random.random() * seconds)
        server.process.send_signal(signal.SIGCONT)
        return server

    for count in (2,) if short else (2, 3):
        hosts(f"a host's server stopped for up to {seconds} s and continued", cluster, count, 3 if short else 25, stop)


def lost_hosts(cluster, short):
    """With all that it runs; forgotten; and back again, with what there was in its home."""

    def lose(place, name, server):
        forgotten = name_of(cluster, name, server)
        lab.end(server.process)
        until = time.monotonic() + 10
        while (left := processes_of([server.home])) and time.monotonic() < until:
            for pid in sorted(left, key=lambda pid: left[pid] != "supervise-task"):
                kill(pid)
        assert not left, (forgotten, left)
        forget(cluster, name, server)
        time.sleep(random.random() * 2)
        server.stop()
        lab.started.remove(server)
        return place.server(cluster.url(name), 6, home=server.home)

    for count in (2,) if short else (2, 3):
        hosts("a host lost, forgotten and back", cluster, count, 3 if short else 25, lose)


def forgotten_hosts(cluster, short):
    """While they run: they may not know it yet, then they end what they have. Its results are void."""

    def forget_it(_place, name, server):
        is_stopped = random.random() < 0.5
        if is_stopped:
            server.process.send_signal(signal.SIGSTOP)
        forget(cluster, name, server)
        time.sleep(random.random() * 3)
        server.process.send_signal(signal.SIGCONT)
        return server

    for count in (2,) if short else (2, 3):
        hosts("a host forgotten while it runs", cluster, count, 3 if short else 25, forget_it, overlaps=True)


class Mounted:
    """A small disk."""

    def __init__(self, mib):
        self.path = tempfile.mkdtemp(prefix="disk-", dir=lab.SCRATCH)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "faults", self.path], check=True)
        lab.started.append(self)

    def fill(self):
        try:
            with open(f"{self.path}/filler", "wb", 0) as file:
                while file.write(bytes(1 << 16)):
                    pass
        except OSError:
            pass

    def free(self):
        os.unlink(f"{self.path}/filler")

    def stop(self):
        subprocess.run(["umount", "-l", self.path], check=True)


def full_home(cluster, short):
    if os.geteuid() != 0:
        return lab.row("a full disk in the home", "needs root", False)
    rounds, seconds = (2, 4) if short else (5, 20)
    disk = Mounted(200)
    home = f"{disk.path}/home"
    os.mkdir(home)
    place, name, server, load = begin(cluster, home=home)
    for _ in range(rounds):
        time.sleep(1 + random.random() * 2)
        disk.fill()
        time.sleep(seconds)
        disk.free()
        # It looks every ten seconds.
        time.sleep(12)
    # An outcome that could not be written is none.
    finish(f"a full disk in the home for {seconds} s, {rounds} times", cluster, place, name, server, load, statuses=("Completed", "Failed"))


class SmallCluster(lab.Cluster):
    """On a disk of its own, which PostgreSQL has to be started on again once it was full."""

    def __init__(self, disk):
        self.disk = disk
        super().__init__()

    def make(self):
        self.data = f"{self.disk.path}/data"
        os.mkdir(self.data, 0o700)
        if self.owner:
            os.chown(self.data, int(self.owner[1].split("=")[1]), int(self.owner[2].split("=")[1]))
        super().make()


def full_database(_cluster, short):
    if os.geteuid() != 0:
        return lab.row("a full disk in PostgreSQL", "needs root", False)
    rounds, seconds = (1, 5) if short else (5, 20)
    disk = Mounted(400)
    cluster = SmallCluster(disk)
    place, name, server, load = begin(cluster)
    for _ in range(rounds):
        time.sleep(1 + random.random() * 2)
        disk.fill()
        time.sleep(seconds)
        disk.free()
        try:
            cluster.sql("postgres", "SELECT 1")
        except RuntimeError:
            cluster.stop()
            cluster.start()
    finish(f"a full disk in PostgreSQL for {seconds} s, {rounds} times", cluster, place, name, server, load)


ROWS = [stopped_hosts, lost_hosts, forgotten_hosts, full_home, full_database]
