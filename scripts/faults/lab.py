"""What the fault rows stand on: a private PostgreSQL, servers, a strict little client, a report. Everything that is
started here is ended here, by its own number."""

import glob
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BINARY = os.environ["CLOACINACTL_BIN"]
SCRATCH = ""
started = []


def make_scratch():
    """A directory that is this process's own."""
    global SCRATCH
    SCRATCH = tempfile.mkdtemp(prefix="cloacinactl-faults-")
    os.chmod(SCRATCH, 0o755)


make_scratch()


# --- the report -------------------------------------------------------------------------------------------------

failed = []


def row(what, measured, ok):
    """One line for each row."""
    print(f"{'ok    ' if ok else 'FAILED'}  {what}: {measured}", flush=True)
    if not ok:
        failed.append(what)


# The short form runs where other things run as well: it asks whether all is well, not how fast the machine is.
slack = 1


def limit(value):
    return value * slack


def share(values, part):
    """The value below which this part of all lies, in milliseconds."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000


def spread(values):
    return f"p50 {share(values, 0.5):.1f} ms, p99 {share(values, 0.99):.1f} ms, max {share(values, 1):.1f} ms"


def wait_for(what, look, limit=30.0):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"waited {limit} s in vain for {what}")


def end(process, name=signal.SIGKILL):
    if process.poll() is None:
        process.send_signal(name)
    return process.wait()


def clean_up():
    for thing in reversed(started):
        try:
            thing.stop()
        except Exception as error:  # What else is there has to be stopped all the same.
            print(f"cannot stop {thing}: {error}", file=sys.stderr)
    shutil.rmtree(SCRATCH, ignore_errors=True)


# --- PostgreSQL -------------------------------------------------------------------------------------------------


def programs():
    initdb = shutil.which("initdb")
    found = [os.path.realpath(initdb)] if initdb else glob.glob("/usr/lib/postgresql/*/bin/initdb")
    return os.path.dirname(max(found, key=lambda path: [int(n) for n in path.split("/") if n.isdigit()]))


def as_owner():
    """PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return []
    import pwd

    user = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if name in [u.pw_name for u in pwd.getpwall()])
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def faketime(off):
    """The words that run a program with a clock that is off and runs as fast as ours."""
    # The program itself would wait for all that it starts, so it only says where its library is.
    said = subprocess.run(["faketime", "-f", f"{off:+d}s", "printenv", "LD_PRELOAD"], capture_output=True, check=True)
    library = said.stdout.decode().strip()
    return ["env", f"LD_PRELOAD={library}", f"FAKETIME={off:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]


def faked_program():
    """What faketime works with, which is no static program: a library has to be loaded."""
    for path in (BINARY, f"{os.path.dirname(__file__)}/../../target/debug/cloacinactl"):
        if os.path.exists(path):
            with open(path, "rb") as file:
                if b"/ld-linux" in file.read(4096):
                    return path
    raise RuntimeError("a clock can be changed for a program only that is not static: `cargo build` makes one")


def remove_leftovers_of_faketime():
    """It keeps a file in shared memory for each process, and a process that is killed leaves it there."""
    for path in glob.glob("/dev/shm/faketime_shm_*") + glob.glob("/dev/shm/sem.faketime_sem_*"):
        if not os.path.exists(f"/proc/{path.rsplit('_', 1)[1]}"):
            os.unlink(path)


class Cluster:
    """A private PostgreSQL, on disk as in production: fsync stays on."""

    def __init__(self, host="127.0.0.1", before=(), off=0):
        self.host, self.before = host, list(before)
        # Its clock is ahead by so many seconds.
        self.clock = faketime(off) if off else []
        self.place = tempfile.mkdtemp(prefix="pg-", dir=SCRATCH)
        self.bin, self.owner = programs(), as_owner()
        if self.owner:
            os.chown(self.place, int(self.owner[1].split("=")[1]), int(self.owner[2].split("=")[1]))
        self.data = f"{self.place}/data"
        self.port = random.randrange(15000, 30000)
        self.make()
        self.databases = 0
        started.append(self)
        self.start()

    def make(self):
        self.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", self.data)
        with open(f"{self.data}/pg_hba.conf", "a", encoding="ascii") as rules:
            rules.write("host all all 10.0.0.0/8 trust\n")

    def run(self, program, *arguments, before=()):
        command = [*before, *self.owner, f"{self.bin}/{program}", *arguments]
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=program != "pg_ctl", check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr!r}")
        return done.stdout

    def start(self):
        options = f"-p {self.port} -c listen_addresses={self.host} -c unix_socket_directories={self.place} -c max_connections=400"
        log = ["-l", f"{self.place}/log"]
        with open(os.devnull, "wb") as nowhere:
            # The clock is for PostgreSQL's user alone: what it leaves behind belongs to the user who loads it first.
            command = [*self.before, *self.owner, *self.clock, f"{self.bin}/pg_ctl", "-D", self.data, *log, "-o", options, "-w", "start"]
            subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=nowhere, stderr=nowhere, check=True)

    def stop(self, mode="immediate"):
        if not os.path.exists(f"{self.data}/postmaster.pid"):
            return
        self.signal(signal.SIGCONT)
        with open(os.devnull, "wb") as nowhere:
            command = [*self.owner, f"{self.bin}/pg_ctl", "-D", self.data, "-m", mode, "-w", "stop"]
            subprocess.run(command, cwd="/", stdout=nowhere, stderr=nowhere, check=False)
        if self.clock:
            remove_leftovers_of_faketime()

    def signal(self, name):
        with open(f"{self.data}/postmaster.pid", encoding="ascii") as file:
            postmaster = int(file.readline())
        os.kill(postmaster, name)
        if name == signal.SIGSTOP:
            # It may be in the middle of making a child.
            wait_for("the postmaster to stand still", lambda: is_stopped(postmaster))
        for child in children(postmaster):
            try:
                os.kill(child, name)
            except ProcessLookupError:
                pass

    def sql(self, database, text):
        arguments = ["-h", self.place, "-p", str(self.port), "-U", "postgres", "-d", database, "-XAtqc", text]
        return self.run("psql", *arguments).decode().strip()

    def database(self):
        self.databases += 1
        name = f"faults_{self.databases}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def url(self, database, port=None):
        return f"postgresql://postgres@{self.host}:{port or self.port}/{database}"


class Standby(Cluster):
    """Follows another one, and applies what it hears of after a delay."""

    def __init__(self, primary, delay):
        self.primary, self.delay = primary, delay
        super().__init__(primary.host)

    def make(self):
        place = ("-h", self.primary.host, "-p", str(self.primary.port), "-U", "postgres")
        self.run("pg_basebackup", *place, "-R", "-X", "stream", "-c", "fast", "-D", self.data)
        with open(f"{self.data}/postgresql.auto.conf", "a", encoding="ascii") as settings:
            settings.write(f"recovery_min_apply_delay = '{self.delay}'\n")


def is_stopped(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return "State:\tT" in file.read()


def children(parent):
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if text.rsplit(")", 1)[1].split()[1] == str(parent):
            found.append(int(path.split("/")[2]))
    return found


# --- the server -------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, url, *flags, home=None, before=(), wait=True, environment=None, stderr=None, program=BINARY):
        self.flags = flags
        self.home = home or tempfile.mkdtemp(prefix="home-", dir=SCRATCH)
        self.out = open(f"{self.home}/stdout", "wb+")
        self.err = open(f"{self.home}/stderr", "wb+")
        command = [*before, program, "--home", self.home, "serve", "--bind", "127.0.0.1:0", "--database-url", url, *flags]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=stderr or self.err, env={"PATH": os.environ["PATH"], **(environment or {})}
        )
        started.append(self)
        self.address = None
        if wait:
            self.wait()

    def wait(self):
        wait_for(f"a server to start: {self.stderr()}", self.is_up, 60)
        return self

    def is_up(self):
        with open(f"{self.home}/stdout", encoding="utf-8") as file:
            for line in file:
                if line.startswith("API server is running on http://") and line.endswith("\n"):
                    host, port = line.split("http://")[1].strip().rsplit(":", 1)
                    self.address = (host, int(port))
                    return True
        if self.process.poll() is not None:
            raise RuntimeError(f"the server is gone: {self.stderr()}")
        return False

    def stderr(self):
        with open(f"{self.home}/stderr", encoding="utf-8") as file:
            return file.read()

    def key(self):
        with open(f"{self.home}/bootstrap-key", encoding="ascii") as file:
            return file.read().strip()

    def log_size(self):
        return sum(os.path.getsize(path) for path in glob.glob(f"{self.home}/logs/*")) + os.path.getsize(f"{self.home}/stderr")

    def footprint(self):
        """Memory now and at its peak in MiB, threads, descriptors."""
        pid = self.process.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        mib = [int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]
        return (*mib, len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")))

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        end(self.process)
        self.out.close()
        self.err.close()

    def ask(self, method, path, key=None, body=None, timeout=30):
        return ask(self.address, method, path, key, body, timeout)

    def create(self, key, name="made"):
        status, body = self.ask("POST", "/auth/keys", key, {"name": name})
        assert status == 201, (status, body)
        made = json.loads(body)
        return made["id"], made["key"]

    def metric(self, name, label=""):
        total = 0.0
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {" and label in line:
                total += float(line.rsplit(" ", 1)[1])
        return total


# --- a client ---------------------------------------------------------------------------------------------------


def request(method, path, key=None, body=None, headers=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    if body is not None:
        body = json.dumps(body)
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body or ''}".encode()


def answer_length(data):
    """How long the answer is that these bytes begin with, or None while it is not whole."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    assert data.startswith(b"HTTP/1.1 "), data[:80]
    at = data.find(b"Content-Length: ", 0, head)
    length = int(data[at + 16 : data.find(b"\r\n", at)]) if at >= 0 else 0
    return head + 4 + length if len(data) >= head + 4 + length else None


class Connection:
    def __init__(self, address, timeout=30):
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def ask(self, data):
        self.socket.sendall(data)
        while (length := answer_length(self.left)) is None:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionResetError(f"ended after {self.left!r}")
            self.left += more
        answer, self.left = self.left[:length], self.left[length:]
        return int(answer[9:12]), answer[answer.find(b"\r\n\r\n") + 4 :]

    def close(self):
        self.socket.close()


def ask(address, method, path, key=None, body=None, timeout=30):
    """One request on a connection of its own."""
    connection = Connection(address, timeout)
    try:
        return connection.ask(request(method, path, key, body))
    finally:
        connection.close()


def timed(address, method, path, key=None):
    began = time.monotonic()
    status, _ = ask(address, method, path, key)
    return status, time.monotonic() - began


def database_with(cluster, keys=0, flags=()):
    """A server on a fresh database, its key, and so many further keys in the table."""
    name = cluster.database()
    server = Server(cluster.url(name), *flags)
    admin = server.key()
    if keys:
        cluster.sql(
            name,
            "INSERT INTO api_keys (id, key_hash, name, permissions, created_at) "
            f"SELECT gen_random_uuid(), md5(n::text), 'key-' || n, 'read', now() FROM generate_series(1, {keys}) n",
        )
    return server, admin, name
