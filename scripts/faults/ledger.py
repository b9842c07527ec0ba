"""Executions whose tasks keep a ledger of their own, on a disk beside the server, and what ledger, API and tables must
show of them in the end, whatever died meanwhile."""

import io
import json
import os
import random
import signal
import tarfile
import tempfile
import threading
import time
import uuid

import lab

# The ledger is opened before anything else. The lock lies in a file of this task of this execution; the child that left
# the task's session has it too, so it is free once every process of the attempt is gone.
TASK = """#!/bin/sh
exec 9>>{place}/ledger
id="$CLOACINA_EXECUTION_ID $CLOACINA_TASK $CLOACINA_ATTEMPT $HOME"
echo "begin $id" >&9
exec 8>>"{place}/locks/$CLOACINA_EXECUTION_ID.$CLOACINA_TASK"
flock -n 8 || echo "overlap $id" >&9
(setsid sleep {sleeps} 9>&- </dev/null >/dev/null 2>&1 &)
echo "first $CLOACINA_ATTEMPT"
case $(($$ / 7 % 5)) in
3) sleep "$2" ;;
*) sleep "0.$(($$ % 90 + 10))" ;;
esac
if [ "$1" = flaky ] && [ "$CLOACINA_ATTEMPT" = 1 ]; then
    echo "end $id" >&9
    exit 3
fi
echo "{{\\"$CLOACINA_TASK\\":$CLOACINA_ATTEMPT}}" >"$CLOACINA_OUTPUT"
echo "last $CLOACINA_ATTEMPT"
echo "end $id" >&9
"""
# Of `once` the ledger has one line at most, for nothing allows it to run again.
DAG = """[package]
name = "dag"
version = "1.0.0"
[[tasks]]
id = "a"
command = ["./task.sh", "good", "{long}"]
restart_safe = true
[[tasks]]
id = "b"
command = ["./task.sh", "flaky", "{long}"]
dependencies = ["a"]
restart_safe = true
retries = {{ attempts = 3, delay = "100ms" }}
[[tasks]]
id = "c"
command = ["./task.sh", "good", "{long}"]
dependencies = ["a"]
restart_safe = true
[[tasks]]
id = "once"
command = ["./task.sh", "good", "{long}"]
dependencies = ["a"]
allow_failure = true
[[tasks]]
id = "last"
command = ["./task.sh", "good", "{long}"]
dependencies = ["b", "c", "once"]
restart_safe = true
"""
ENDED = ("Completed", "Failed", "Cancelled")
LEFT = """SELECT concat_ws(' ', (SELECT count(*) FROM cloacina_queue), (SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL),
                  (SELECT count(*) FROM cloacina_executions WHERE completed_at IS NULL))"""


def archive(manifest, files):
    """A package of these files, which may all be executed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in {"package.toml": manifest, **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def slots(number):
    """The flags of a server that runs tasks."""
    user = ("--task-user", "nobody") if os.geteuid() == 0 else ()
    return ("--task-slots", str(number), "--sandbox", "partial", *user)


class Place:
    """Where tasks write, who may run some there, and the end of whatever is left of them."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="tasks-", dir=lab.SCRATCH)
        os.mkdir(f"{self.path}/locks")
        for path in (self.path, f"{self.path}/locks"):
            os.chmod(path, 0o777)
        # How long what tasks leave behind sleeps: it is known by that, also where it has no environment any more.
        self.sleeps = f"1000.{random.randrange(10**9)}"
        self.admin = None
        self.homes = set()
        lab.started.append(self)

    def stop(self):
        """Supervisors first, or they would write down how the rest ended."""
        for _ in range(100):
            left = self.processes()
            for pid in sorted(left, key=lambda pid: left[pid] != "supervise-task"):
                kill(pid)
            if not left:
                return
            time.sleep(0.05)

    def processes(self):
        """Those that belong to an attempt of one of these homes, each with what it is."""
        return processes_of(self.homes, self.sleeps)

    def server(self, url, number=12, home=None, wait=True, flags=(), before=(), program=lab.BINARY):
        server = lab.Server(url, *slots(number), *flags, home=home, wait=wait, before=before, program=program)
        self.homes.add(server.home)
        return server

    def tenant(self, server, name="acme"):
        self.admin = server.key()
        for method, path, body, expected in (
            ("POST", "/tenants", {"schema_name": name}, 201),
            ("PATCH", f"/tenants/{name}", {"paths": {self.path: "rw"}}, 200),
        ):
            status, answer = server.ask(method, path, self.admin, body)
            assert status == expected, (path, status, answer)

    def upload(self, server, manifest, files, tenant="acme"):
        body = archive(manifest, files)
        connection = lab.Connection(server.address)
        head = f"POST /tenants/{tenant}/workflows HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.admin}\r\n"
        head += f"Content-Type: application/gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        status, answer = connection.ask(head.encode() + body)
        connection.close()
        assert status in (200, 201), (status, answer)

    def upload_dag(self, server, long=0.8):
        self.upload(server, DAG.format(long=long), {"task.sh": TASK.format(place=self.path, sleeps=self.sleeps)})

    def ledger(self):
        """Lines: what, execution, task, attempt's number, its directory."""
        path = f"{self.path}/ledger"
        if not os.path.exists(path):
            return []
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file]


def kill(pid, name=signal.SIGKILL):
    try:
        os.kill(pid, name)
    except ProcessLookupError:
        pass


def processes_of(homes, sleeps=None):
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue
        if sleeps and words[:2] == [b"sleep", sleeps.encode()]:
            found[int(pid)] = "task"
        for home in homes:
            directory = f"{home}/attempts/".encode()
            kind = next((word for word in (b"supervise-task", b"exec-task") if word in words), None)
            if kind and any(word.startswith(directory) for word in words) or b"\0HOME=" + directory in b"\0" + environment:
                found[int(pid)] = kind.decode() if kind else "task"
    return found


class Load(threading.Thread):
    """Starts executions, each asked for until it is answered, so that a few are always under way."""

    def __init__(self, place, server, most=12):
        super().__init__(daemon=True)
        # The one that is asked how many there are may be another one.
        self.place, self.server, self.counted_by, self.most = place, server, None, most
        self.ids, self.wrong, self.refused, self.cut = [], [], 0, 0
        self.over = threading.Event()

    def run(self):
        key = None
        # Without an answer nobody knows whether it was started.
        while key or not self.over.is_set():
            try:
                if key is None and self.under_way() >= self.most:
                    time.sleep(0.02)
                    continue
                key = key or str(uuid.uuid4())
                status, answer = execute(self.server, self.place.admin, key=key)
            except (OSError, TypeError, AssertionError):
                # Nobody listens at the moment.
                self.cut += key is not None
                time.sleep(0.02)
                continue
            if status == 202:
                self.ids.append(json.loads(answer)["execution_id"])
                key = None
            elif status == 503:
                self.refused += 1
                time.sleep(0.05)
            else:
                self.wrong.append((status, answer))
                key = None

    def under_way(self):
        status, answer = (self.counted_by or self.server).ask("GET", "/tenants/acme", self.place.admin)
        if status != 200:
            raise OSError(status)
        counts = json.loads(answer)["executions"]
        return counts.get("Pending", 0) + counts.get("Running", 0)

    def end(self):
        self.over.set()
        self.join(120)
        if self.is_alive():
            self.wrong.append("no answer after 120 s")


def execute(server, admin, workflow="dag", tenant="acme", key=None):
    headers = {"Idempotency-Key": key} if key else {}
    data = lab.request("POST", f"/tenants/{tenant}/workflows/{workflow}/execute", admin, {}, headers)
    connection = lab.Connection(server.address)
    try:
        return connection.ask(data)
    finally:
        connection.close()


def show(server, admin, path):
    status, answer = server.ask("GET", f"/tenants/acme/{path}", admin)
    assert status == 200, (path, status, answer)
    return json.loads(answer)
