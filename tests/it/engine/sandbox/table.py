"""Each attempt of attempts.py inside the sandbox, where it has to fail as it should, and outside it by the same user, where
it has to succeed, so that none fails for another reason. Prints a line for each: ok, skipped, or FAILED and what was seen.

usage: table.py --program CLOACINACTL --mode required|partial [--as-root] [--confined-already]

Started by root, everything runs as a made-up user; --as-root leaves it to exec-task to become that. --confined-already
skips what fails outside as well, as under systemd.
"""

import argparse
import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# A process that lets itself be traced, has a file open at 3 and a secret in its memory, lets a signal stay pending, and
# perhaps listens.
STAND_IN = """
import ctypes, os, signal, socket, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
secret = ctypes.create_string_buffer(b"secret!!")
os.dup2(os.open(sys.argv[1], os.O_RDONLY), 3)
for address in sys.argv[2:4]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address.replace("@", chr(0)))
    listening.listen()
    listening.detach()
for address in sys.argv[4:5]:
    socket_of_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    socket_of_datagrams.bind(address)
print(ctypes.addressof(secret), flush=True)
if len(sys.argv) > 2:
    libc = ctypes.CDLL(None)
    print(libc.shmget(0, 4096, 0o600), libc.msgget(0, 0o600), libc.semget(0, 1, 0o600), sep=chr(10), flush=True)
    libc.mq_open(sys.argv[5].encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
time.sleep(600)
"""

# By what a mode says stays open: which attempts.
OPEN = {"every file": "files", "truncating": "truncate", "signals": "signals", "Unix sockets": "calls"}


class Table:
    def __init__(self, program, mode, as_root, is_confined, base):
        # By a descriptor, whatever directories lead there; not by one of those that a child has.
        self.program = fcntl.fcntl(os.open(program, os.O_RDONLY), fcntl.F_DUPFD_CLOEXEC, 100)
        self.mode, self.base = mode, base
        self.is_root = os.geteuid() == 0
        # A user that no other process runs as.
        self.uid = 50000 + os.getpid() % 10000 if self.is_root else os.geteuid()
        self.gid = self.uid if self.is_root else os.getegid()
        self.as_root, self.is_confined = as_root, is_confined
        self.children = []
        self.libc = ctypes.CDLL(None)
        # What outlives the process that makes it.
        self.shared = dict.fromkeys(("shared_memory", "messages", "semaphores"))
        self.queue = f"/cloacinactl-it-server-{os.getpid()}"

    def give(self, path):
        if self.is_root:
            os.chown(path, self.uid, self.gid)

    def directory(self, name):
        path = f"{self.base}/{name}"
        os.makedirs(path, 0o700, exist_ok=True)
        self.give(path)
        return path

    def file(self, name, mode=0o600, text="content"):
        self.directory(os.path.dirname(name))
        with open(f"{self.base}/{name}", "x", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        self.give(file.name)

    def link(self, name, target):
        os.symlink(f"{self.base}/{target}", f"{self.base}/{name}")

    def start(self, program, argv, environment=None, is_root=False):
        """A child, and what it and, on descriptor 3, exec-task say."""
        reader, writer = os.pipe()
        if not is_root:
            self.give(writer)
        child = os.fork()
        if child == 0:
            try:
                most = resource.RLIM_INFINITY if self.is_root else resource.getrlimit(resource.RLIMIT_CORE)[1]
                resource.setrlimit(resource.RLIMIT_CORE, (most, most))
                os.dup2(os.open("/dev/null", os.O_RDWR), 0)
                for descriptor in (1, 2, 3):
                    os.dup2(writer, descriptor)
                # What exec-task should close.
                os.dup2(os.open(f"{self.base}/home/secrets-key", os.O_RDONLY), 7)
                os.setpgid(0, 0)
                if self.is_root and not is_root:
                    os.setgroups([])
                    os.setresgid(self.gid, self.gid, self.gid)
                    os.setresuid(self.uid, self.uid, self.uid)
                os.chdir("/")
                os.execve(program, argv, environment or {})
            except BaseException as error:  # pylint: disable=broad-except
                os.write(2, f"{argv}: {error!r}".encode())
            os._exit(126)
        os.close(writer)
        self.children.append(child)
        return child, open(reader, encoding="utf-8")

    def start_task(self, command, own, fixture=None):
        """Through exec-task, with a directory of its own and the package."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "FIXTURE": json.dumps(fixture)}
        what = {"format": 1, "command": command, "working_directory": own, "environment": environment, "open_files": 1024}
        what |= {"timeout_ms": 60000, "grace_ms": 1000, "ends_with_parent": False}
        what |= {"log_limit_bytes": 1 << 20, "output_limit_bytes": 1 << 20, "scratch_limit_bytes": None}
        what["user"] = {"uid": self.uid, "gid": self.gid, "groups": []} if self.as_root else None
        readable = [f"{self.base}/package", f"{self.base}/readable"]
        what["sandbox"] = {"mode": self.mode, "readable": readable, "writable": [own]}
        path = f"{self.base}/spec-{len(self.children)}.json"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(what, file)
            os.fchmod(file.fileno(), 0o644)
        return self.start(self.program, ["cloacinactl", "exec-task", path, str(os.getpid())], is_root=self.as_root)

    def fixture(self):
        """Directories of a server, a package, this task, another task and another tenant; and two processes."""
        for name in ("secrets-key", "config.toml", "to-be-removed", "to-be-renamed", "to-be-truncated"):
            self.file(f"home/{name}")
        self.directory("home/directory-to-be-removed")
        for name in ("package/to-be-truncated", "readable/file", "other_task/context.json", "task/to-be-renamed"):
            self.file(name)
        for name in ("package/run.sh", "other_package/run.sh"):
            self.file(name, 0o700, "#!/bin/sh\n")
        with open(f"{HERE}/attempts.py", encoding="utf-8") as file:
            self.file("package/attempts.py", text=file.read())
        self.link("task/link-to-key", "home/secrets-key")
        self.link("package/link-to-key", "home/secrets-key")
        self.link("task/link-to-package", "package")
        fixture = {name: f"{self.base}/{name}" for name in ("home", "package", "task", "other_task", "other_package", "readable")}
        fixture["setuid"] = f"{self.base}/package/id"
        shutil.copy(shutil.which("id"), fixture["setuid"])
        if self.is_root:
            # Not given away: it stays root's.
            os.chmod(fixture["setuid"], 0o4755)
        fixture["socket"], fixture["abstract_socket"] = f"{self.base}/home/socket", f"cloacinactl-it-{os.getpid()}"
        fixture["datagram_socket"] = f"{self.base}/home/datagrams"
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
        arguments = [f"{self.base}/home/secrets-key", fixture["socket"], "@" + fixture["abstract_socket"], fixture["datagram_socket"]]
        arguments.append(self.queue)
        fixture["server"], said = self.start(python, ["python3", "-c", STAND_IN, *arguments])
        fixture["address_in_server"] = first_number(said)
        for kind in self.shared:
            fixture[kind] = self.shared[kind] = first_number(said)
        fixture["queue"] = self.queue
        command = ["python3", "-c", STAND_IN, f"{self.base}/other_task/context.json"]
        fixture["other"], said = self.start_task(command, f"{self.base}/other_task")
        fixture["address_in_other"] = first_number(said)
        fixture["is_user_made_up"] = self.is_root
        return fixture

    def open_parts(self):
        """What this mode says of itself, and the attempts that are open by that."""
        _, said = self.start(self.program, ["cloacinactl", "exec-task", "--probe", self.mode])
        said = said.read().strip()
        print(f"# {self.mode}: {said or 'nothing stays open'}", flush=True)
        return {part for words, part in OPEN.items() if words in said}

    def run(self):
        """How many attempts did not end as they should."""
        fixture, open_parts = self.fixture(), self.open_parts()
        path = f"{self.base}/package/attempts.py"
        _, said = self.start_task(["python3", path, "inside"], f"{self.base}/task", fixture)
        inside = rows(said.read())
        environment = {"FIXTURE": json.dumps(fixture), "PATH": os.environ["PATH"]}
        _, said = self.start(shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin"), ["python3", path, "outside"], environment)
        outside = rows(said.read())
        failed = abs(len(inside) - len(outside))
        for name, (part, refusals, is_optional, seen_outside) in outside.items():
            seen = inside.get(name, [None] * 4)[3]
            told = f"{name}: {seen} inside, {seen_outside} outside"
            if (is_optional or self.is_confined) and seen_outside != "ok" and seen != "ok":
                print(f"skipped {told}")
            elif seen_outside == "ok" and (seen == "ok" if part in open_parts else seen in refusals):
                print(f"ok {told}")
            else:
                failed += 1
                print(f"FAILED {told}; it is one of {part}, to be refused with {' or '.join(refusals)}")
        return failed

    def end(self):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        shared_memory, messages, semaphores = (-1 if number is None else number for number in self.shared.values())
        # IPC_RMID is 0.
        self.libc.shmctl(shared_memory, 0, None)
        self.libc.msgctl(messages, 0, None)
        self.libc.semctl(semaphores, 0, 0)
        self.libc.mq_unlink(self.queue.encode())


def first_number(said):
    line = said.readline()
    if not line.strip().isdigit():
        sys.exit(f"FAILED stand-in: {line}{said.read()}")
    return int(line)


def rows(text):
    """By the name of an attempt: its part, how it should fail, whether hosts differ, and what was seen."""
    lines = text.splitlines()
    try:
        return {name: rest for name, *rest in map(json.loads, lines)}
    except ValueError:
        sys.exit(f"FAILED attempts: {text}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--as-root", action="store_true")
    parser.add_argument("--confined-already", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloacinactl-it-sandbox-") as base:
        os.chmod(base, 0o755)
        table = Table(asked.program, asked.mode, asked.as_root, asked.confined_already, base)
        try:
            return 1 if table.run() else 0
        finally:
            table.end()


if __name__ == "__main__":
    sys.exit(main())
