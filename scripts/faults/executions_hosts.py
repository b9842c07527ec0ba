"""Rows about executions on several hosts, of which some are stopped, lost and forgotten, and on hosts whose disk is full."""

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from datetime import datetime

import lab
from executions import begin, finish, go_on
from ledger import kill, processes_of
from several import Wire


def name_of(cluster, database, server):
    """As soon as it has one, again where its host was forgotten before."""

    def look():
        with open(f"{server.home}/host", encoding="ascii") as file:
            text = file.read()
        found = cluster.sql(database, "SELECT id, name FROM cloacina_hosts WHERE forgotten_at IS NULL").splitlines()
        return next((name for host, name in (line.split("|") for line in found) if host in text), None)

    return lab.wait_for("a host to be known", look)


def forget(cluster, database, server):
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    command = [lab.BINARY, "--home", home, "hosts", "forget", name_of(cluster, database, server), "--database-url", cluster.url(database)]
    said = subprocess.run(command, check=False, capture_output=True)
    assert said.returncode == 0, said


def hosts(what, cluster, count, rounds, fault, make=None, figures=lambda: "", asks_it=False, **options):
    """The first server is never touched; what becomes of the others is up to the fault, which returns what there is in a
    server's place. With `asks_it` that is asked to start executions meanwhile, and then the first one again."""
    place, name, server, load = begin(cluster, 6)
    make = make or (lambda place, name: place.server(cluster.url(name), 6))
    others = [make(place, name) for _ in range(count - 1)]
    lab.wait_for("every host to run something", lambda: cluster.sql(name, "SELECT count(DISTINCT host) FROM cloacina_attempts") == str(count))
    for _ in range(rounds):
        time.sleep(0.5 + random.random())
        chosen = random.randrange(len(others))
        if asks_it:
            load.counted_by, load.server, load.most = server, others[chosen], load.most + 4
        others[chosen] = fault(place, name, others[chosen])
        load.server = server
    time.sleep(1)
    by_host = cluster.sql(name, "SELECT string_agg(count::text, ' and ') FROM (SELECT count(*) FROM cloacina_attempts GROUP BY host) AS counted")
    finish(f"{what}, {rounds} times, {count} servers", cluster, place, name, server, load, f" ({by_host} on each){figures()}", statuses=("Completed", "Failed"), **options)
    for other in others:
        other.stop()


def stopped_hosts(cluster, short):
    """For minutes the first time."""
    seconds, minutes = (4, 4) if short else (20, 150)

    for count in (2,) if short else (2, 3):
        times = [minutes]

        def stop(_place, _name, server):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(times.pop() if times else random.random() * seconds)
            server.process.send_signal(signal.SIGCONT)
            return server

        hosts(f"a host's server stopped for {minutes} s once, else for up to {seconds}, and continued", cluster, count, 3 if short else 6, stop)


def half_links(cluster, short):
    """What a server sends to the database, or what comes from there, is held up, and comes when nobody waits for it any
    more."""
    seconds, wires, ways = 4 if short else 30, {}, []

    def make(place, name):
        wire = Wire("127.0.0.1", cluster.port)
        lab.started.append(wire)
        server = place.server(cluster.url(name, wire.port), 6)
        wires[server] = wire
        return server

    def hold_up(_place, _name, server):
        wires[server].hold_up(ways.pop())
        time.sleep(seconds * (0.5 + random.random() / 2))
        wires[server].let_through()
        return server

    for count in (2,) if short else (2, 3):
        ways[:] = [True, False] * 3
        hosts(f"a host's link to the database cut one way for up to {seconds} s", cluster, count, 2 if short else 6, hold_up, make, asks_it=True)


def hours_apart(cluster, short):
    """Servers whose clocks are an hour ahead and behind, each killed and started again with another one."""
    rounds, offs, seen = 2 if short else 6, [], []

    def make(place, name, home=None):
        if not offs:
            offs.extend([3600, -3600])
        off = offs.pop()
        server = place.server(cluster.url(name), 6, home=home, before=lab.faketime(off), program=lab.faked_program())
        differs = logged(server) - time.time()
        assert abs(differs - off) < 60, f"faketime does not work: the clocks differ by {differs} s"
        seen.append(off)
        return server

    def turn(place, name, server):
        time.sleep(2)
        server.stop()
        lab.started.remove(server)
        lab.remove_leftovers_of_faketime()
        return make(place, name, server.home)

    for count in (2,) if short else (2, 3):
        seen.clear()
        hosts("a host's clock an hour off, its server killed and started with another one", cluster, count, rounds, turn, make, lambda: f", off by {seen}")
        lab.remove_leftovers_of_faketime()


def logged(server):
    """When the last line of its log was written, by its own clock."""
    with open(f"{server.home}/logs/cloacina-server.log", encoding="utf-8") as file:
        return datetime.fromisoformat(json.loads(file.readlines()[-1])["timestamp"]).timestamp()


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
        hosts("a host lost, forgotten and back", cluster, count, 3 if short else 10, lose)


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
        hosts("a host forgotten while it runs", cluster, count, 3 if short else 10, forget_it, overlaps=True)


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
    rounds, seconds = (1, 4) if short else (5, 20)
    disk = Mounted(200)
    home = f"{disk.path}/home"
    os.mkdir(home)
    # What it prints is for this program.
    for output in ("stdout", "stderr"):
        os.symlink(f"{lab.SCRATCH}/full-home-{output}", f"{home}/{output}")
    place, name, server, load = begin(cluster, home=home)
    for number in range(rounds):
        go_on(load)
        time.sleep(random.random() * 2)
        disk.fill()
        time.sleep(seconds / 2)
        if number % 2 == 0:
            server.stop()
            lab.started.remove(server)
            server = load.server = place.server(cluster.url(name), home=home, wait=False)
        time.sleep(seconds / 2)
        disk.free()
        server.wait()
    # An outcome that could not be written is none, and a task sees a disk that is full.
    finish(f"a full disk in the home for {seconds} s, {rounds} times, its server killed meanwhile every second time", cluster, place, name, server, load, forbidden="could not (be started|begin)", statuses=("Completed", "Failed"))


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
        go_on(load)
        time.sleep(random.random() * 2)
        disk.fill()
        time.sleep(seconds)
        disk.free()
        try:
            cluster.sql("postgres", "SELECT 1")
        except RuntimeError:
            cluster.stop()
            cluster.start()
    finish(f"a full disk in PostgreSQL for {seconds} s, {rounds} times", cluster, place, name, server, load)


ROWS = [stopped_hosts, lost_hosts, forgotten_hosts, half_links, hours_apart, full_home, full_database]
