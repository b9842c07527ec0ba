"""Rows about starting, ending, clocks and disks."""

import glob
import hashlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

import lab
import load
from lab import row


def ten_at_once(cluster, short):
    name = cluster.database()
    servers = [lab.Server(cluster.url(name), wait=False) for _ in range(10)]
    for server in servers:
        server.wait()
    files = [server.key() for server in servers if os.path.exists(f"{server.home}/bootstrap-key")]
    rows = cluster.sql(name, "SELECT key_hash FROM api_keys").split()
    ok = len(files) == 1 and rows == [hashlib.sha256(files[0].encode()).hexdigest()]
    ok = ok and all(server.ask("GET", "/auth/verify", files[0])[0] == 204 for server in servers)
    row("ten servers at once on an empty database", f"{len(rows)} key, {len(files)} file", ok)
    for server in servers:
        server.stop()


def killed_starts(cluster, short):
    rounds = 10 if short else 50
    began = time.monotonic()
    server, _, _ = lab.database_with(cluster)
    whole = time.monotonic() - began
    server.stop()
    without_file = without_row = 0
    wrong, left = [], set()
    for number in range(rounds):
        name = cluster.database()
        home = tempfile.mkdtemp(prefix="killed-", dir=lab.SCRATCH)
        first = lab.Server(cluster.url(name), home=home, wait=False)
        time.sleep(random.random() * whole * 1.1)
        lab.end(first.process)
        file = os.path.exists(f"{home}/bootstrap-key")
        # The killed one's session may still be at its last statement.
        time.sleep(0.05)
        table = cluster.sql(name, "SELECT to_regclass('api_keys') IS NOT NULL") == "t"
        rows = int(cluster.sql(name, "SELECT count(*) FROM api_keys")) if table else 0
        without_file += rows and not file
        without_row += bool(file and not rows)
        second = lab.Server(cluster.url(name), home=home)
        hashes = cluster.sql(name, "SELECT key_hash FROM api_keys").split()
        if hashes != [hashlib.sha256(second.key().encode()).hexdigest()] or second.ask("GET", "/auth/verify", second.key())[0] != 204:
            wrong.append(number)
        left |= {name for name in os.listdir(home) if name not in ("bootstrap-key", "logs", "stdout", "stderr")}
        second.stop()
    figures = f"next start wrong {wrong}; row without file {without_file}; file without row, taken over by the next start {without_row}; left behind {len(left)} {sorted(left)[:2]}"
    row(f"kill -9 at {rounds} random points of the first start", figures, not wrong and not without_file)


def drained(cluster, short):
    server, key, _ = lab.database_with(cluster, keys=100)
    data = lab.request("GET", "/auth/keys", key)
    whole, broken, over = [0] * 64, [], threading.Event()

    def run(number):
        connection = lab.Connection(server.address)
        while not over.is_set():
            try:
                connection.socket.sendall(data)
                length = None
                while length is None:
                    more = connection.socket.recv(65536)
                    if not more:
                        break
                    connection.left += more
                    length = lab.answer_length(connection.left)
            except OSError as error:
                more, length = b"", None
                if connection.left:
                    broken.append(repr(error))
            if length is None:
                # Ended before the request was read: not a byte of an answer may have come.
                if connection.left:
                    broken.append(connection.left[:50])
                return
            whole[number] += 1
            connection.left = connection.left[length:]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(40)
    took = time.monotonic() - began
    over.set()
    for thread in threads:
        thread.join()
    answered = sum(whole)
    ok = code == 0 and not broken and took < 30
    row("SIGTERM under the load of 64 connections", f"{answered} whole answers, {len(broken)} broken, exit {code} after {took:.2f} s", ok)


def passed_socket(cluster, short):
    """We play systemd's part: the socket stays, servers come and go."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    address, name = listener.getsockname(), cluster.database()
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    launch = ["sh", "-c", 'exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"', "sh", lab.BINARY]

    def start():
        with open(f"{home}/out", "ab") as out:
            command = [*launch, "--home", home, "serve", "--database-url", cluster.url(name)]
            return subprocess.Popen(command, stdin=listener, stdout=out, stderr=out, env={"PATH": os.environ["PATH"]})

    class Holder:
        def stop(self):
            lab.end(process)

    process = start()
    lab.started.append(Holder())
    lab.wait_for("the first server", lambda: os.path.exists(f"{home}/bootstrap-key"))
    with open(f"{home}/bootstrap-key", encoding="ascii") as file:
        key = file.read().strip()
    failures, times, over = [], [], threading.Event()

    def run():
        while not over.is_set():
            try:
                status, took = lab.timed(address, "GET", "/auth/verify", key)
                times.append(took)
                if status != 204:
                    failures.append(status)
            except OSError as error:
                failures.append(repr(error))

    client = threading.Thread(target=run)
    client.start()
    codes = []
    for _ in range(5):
        # Those from now on are for the server that is there now: before it has answered, a signal may find no handler.
        before = len(times) + len(failures)
        lab.wait_for("requests between restarts", lambda: len(times) + len(failures) >= before + 150, 60)
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(40))
        process = start()
    over.set()
    client.join()
    lab.end(process, signal.SIGTERM)
    row("requests across 5 restarts with a passed socket", f"of {len(times)} failed {failures[:5]}, exit codes {codes}, slowest {lab.share(times, 1):.0f} ms", not failures and codes == [0] * 5)
    listener.close()


def clock_jumps(cluster, short):
    """The wall clock alone, by libfaketime, which reads its offset anew each time."""
    library = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not library:
        return row("clock jumps", "libfaketime is not installed", False)
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    offset = f"{home}/offset"

    def jump(text):
        with open(f"{offset}.new", "w", encoding="ascii") as file:
            file.write(text + "\n")
        os.rename(f"{offset}.new", offset)

    jump("+0")
    fake = {"LD_PRELOAD": library[0], "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    server = lab.Server(cluster.url(cluster.database()), home=home, environment=fake, program=lab.faked_program())
    key, seen = server.key(), []
    for text in ("+0", "+3d", "-2d", "+0", "-400d", "+0"):
        jump(text)
        for _ in range(20):
            seen.append(server.ask("GET", "/auth/verify", key)[0])
            time.sleep(0.02)
        made, short_lived = server.create(key)
        seen.append(server.ask("GET", "/auth/verify", short_lived)[0])
        revoked = server.ask("DELETE", f"/auth/keys/{made}", key)[0]
        seen.append(204 if revoked == 200 and server.ask("GET", "/auth/verify", short_lived)[0] == 401 else revoked)
        seen.append(204 if server.ask("GET", "/ready")[0] == 200 else 503)
    logs = sorted(os.listdir(f"{home}/logs"))
    row("the clock jumps by days, there and back", f"{len(seen)} answers, wrong {[s for s in seen if s != 204][:5]}, log files {len(logs)}", set(seen) == {204} and server.alive())
    server.stop()


def full_disk(cluster, short):
    """The log on a file system of 256 KiB, filled by somebody else."""
    if os.geteuid() != 0:
        return row("a full disk under the log", "needs root", False)
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    os.mkdir(f"{home}/logs", 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", f"{home}/logs"], check=True)
    try:
        server = lab.Server(cluster.url(cluster.database()), home=home)
        key = server.key()
        with open(f"{home}/logs/other", "wb", buffering=0) as other:
            try:
                while other.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        statuses = [server.ask("POST", "/auth/keys", key, {"name": f"on-a-full-disk-{n}"})[0] for n in range(300)]
        said = server.stderr().count("cannot write")
        os.remove(f"{home}/logs/other")
        time.sleep(1.1)
        server.create(key, "after")
        with open(f"{home}/logs/cloacina-server.log", encoding="utf-8") as file:
            lines = file.read().splitlines()
        whole = all(line.startswith("{") and line.endswith("}") for line in lines)
        server.stop()
    finally:
        subprocess.run(["umount", f"{home}/logs"], check=False)
    figures = f"300 writes, wrong {[s for s in statuses if s != 201][:5]}; {said} line about it; the log goes on: {'after' in lines[-1] or 'after' in lines[-2]}, lines whole: {whole}"
    row("a full disk under the log, then room again", figures, set(statuses) == {201} and said == 1 and whole)


def unread_log(cluster, short):
    """stderr is a full pipe, or the log file a terminal: both take a little, and then nothing, for as long as nobody reads."""
    seconds = 4 if short else 15
    base, _ = under_load(cluster, seconds)
    reader, writer = os.pipe()
    worst, verdict = under_load(cluster, seconds, stderr=writer)
    ok = worst < base + lab.limit(10) and verdict == "exit 0"
    row("a stderr that nobody reads", f"p99 {worst:.1f} ms (else {base:.1f}), SIGTERM: {verdict}", ok)
    master, terminal = os.openpty()
    home = tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    os.mkdir(f"{home}/logs", 0o700)
    os.symlink(os.ttyname(terminal), f"{home}/logs/cloacina-server.log")
    worst, verdict = under_load(cluster, seconds, home=home)
    ok = worst < base + lab.limit(10) and verdict == "exit 0"
    row("a log file that hangs", f"p99 {worst:.1f} ms (else {base:.1f}), SIGTERM: {verdict}", ok)
    for end in (reader, writer, master, terminal):
        os.close(end)


def under_load(cluster, seconds, **how):
    """The worst p99 of ordinary requests beside changes, refusals and debug lines, and how the server ends."""
    environment = {"RUST_LOG": "debug"}
    server = lab.Server(cluster.url(cluster.database()), environment=environment, **how)
    key = server.key()
    asks = [("/health", None), ("/auth/verify", key), ("/auth/keys?limit=5", key)]
    good = load.beside(load.probe, server.address, seconds, asks)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        made, _ = server.create(key)
        server.ask("DELETE", f"/auth/keys/{made}", key)
        server.ask("GET", "/auth/keys", "nobody-has-this-key")
    times, wrong = good()
    worst = max(lab.share(of, 0.99) for of in times.values())
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(lab.limit(3))
        verdict = f"exit {code}" if not wrong else f"{len(wrong)} wrong answers, exit {code}"
    except subprocess.TimeoutExpired:
        verdict = "still there"
    server.stop()
    return worst, verdict


ROWS = [ten_at_once, killed_starts, drained, passed_socket, clock_jumps, full_disk, unread_log]
