"""What tasks can and cannot do under the unit: a trial service has its settings, as tasks inherit them from the server."""

import os
import shutil
import tempfile

from lab import CHECKOUT, expect, read, replace_file, run, shown

UNIT = f"{CHECKOUT}/scripts/deploy/cloacinactl.service"
OF_THE_SERVER = "Type NotifyAccess ExecStart ExecStartPre ExecStopPost ExecReload Sockets LoadCredential Environment WatchdogSec Restart RestartSec"
PROGRAM = "/usr/local/bin/cloacinactl"


def under_its_settings(command, code=0):
    """The output of a command that is cloacina's and under what the unit sets."""
    service = read(UNIT).split("\n[Service]\n")[1].split("\n[Install]")[0].splitlines()
    service = [line for line in service if line.split("=")[0] not in OF_THE_SERVER.split()]
    output = "/run/trial-output"
    own = ["[Service]", "Type=oneshot", f"ExecStart={command}", f"StandardOutput=truncate:{output}"]
    replace_file("/etc/systemd/system/trial.service", "\n".join([*own, *service, ""]))
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "start", "trial.service"], limit=140, code=None)
    said, ended = read(output), int(shown("trial.service", "ExecMainStatus"))
    expect(code in (None, ended), f"{command}: {ended} {said}")
    return said


OPEN = [
    "truncating files of its user (before Linux 6.2)",
    "ioctl on the devices below the paths that it was given (before Linux 6.10)",
    "signals to the processes of its user, also the server's (before Linux 6.12)",
]


def the_sandbox_of_tasks_stands_under_the_unit():
    """Debian 12's kernel is 6.1."""
    probe = f"{PROGRAM} exec-task --probe"
    said = under_its_settings(f"{probe} partial")
    expect(said.splitlines() == OPEN, f"partial: {said}")
    said = under_its_settings(f"{probe} required", code=1)
    expect(said.startswith("this kernel's Landlock has version 2, and 6 (Linux 6.12) is needed"), f"required: {said}")


TABLE = f"{CHECKOUT}/tests/it/engine/sandbox"


def judged(said, at_least):
    lines = said.splitlines()
    held = sum(line.startswith("ok ") for line in lines)
    failed = [line for line in lines if line.startswith("FAILED ")]
    expect(not failed and held >= at_least, failed or said)
    return f"{held} of {len(lines) - 1} attempts"


def what_a_task_cannot_do_on_this_kernel():
    table = ["python3", "-B", f"{TABLE}/table.py", "--program", PROGRAM, "--mode", "partial"]
    seen = [judged(run([*table, *more], limit=140, code=None), 70) for more in ([], ["--as-root"])]
    return "; ".join(seen)


def what_a_task_cannot_do_under_the_unit():
    """Which hides the checkout."""
    with tempfile.TemporaryDirectory(dir="/var/lib/cloacina") as place:
        os.chmod(place, 0o755)
        shutil.copytree(TABLE, place, dirs_exist_ok=True)
        program = f"--program {PROGRAM} --mode partial --confined-already"
        said = under_its_settings(f"/usr/bin/python3 -B {place}/table.py {program}", code=None)
    return judged(said, 50)


# What a task of each kind needs of the unit: programs that are compiled while they run, addresses, priorities and limits
# of its own, other processes, the network.
SCRIPTS = {
    "bash": """#!/usr/bin/env bash
set -eux -o pipefail
[ "$(id -un)" = cloacina ]
cat <<<here | tr h H | grep -x Here
echo one >"$(mktemp)"
mkdir -p "$HOME/a/b" && touch "$HOME/a/b/c" && cp -a "$HOME/a" "$HOME/d" && mv "$HOME/d/b/c" "$HOME/d/c"
tar -C "$HOME" -czf "$TMPDIR/archive.tgz" a && tar -C "$HOME/d" -xzf "$TMPDIR/archive.tgz"
sed -i s/one/two/ "$TMPDIR"/tmp.*
seq 100000 | sort -n | tail -1 | grep -x 100000
nice -n 5 ionice -c 3 taskset -c 0 prlimit --nofile=100 true
getent hosts localhost
ip -o address | grep 127.0.0.1
curl -sS http://localhost:8080/health
sleep 60 & kill $!
! wait $!
! ls /var/lib/cloacina
""",
    "python": """#!/usr/bin/env python3
import concurrent.futures, mmap, multiprocessing, os, pwd, socket, sqlite3, ssl, subprocess, tempfile, urllib.request
assert pwd.getpwuid(os.getuid()).pw_name == "cloacina"
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda x: x * x, range(3))) == [0, 1, 4]
reader, writer = multiprocessing.Pipe()
multiprocessing.get_context("fork").Process(target=lambda: writer.send(3)).start()
assert reader.recv() == 3
subprocess.run(["nice", "-n", "5", "true"], check=True)
tempfile.TemporaryFile().write(b"x")
sqlite3.connect(os.environ["HOME"] + "/database").execute("CREATE TABLE t (x)")
ssl.create_default_context()
assert socket.if_nameindex() and socket.getaddrinfo("localhost", 80)
assert urllib.request.urlopen("http://localhost:8080/health").status == 200
""",
    "node": """#!/usr/bin/env node
const { execFileSync } = require("child_process"), { Worker } = require("worker_threads");
const assert = require("assert"), fs = require("fs"), os = require("os");
assert.equal(os.userInfo().username, "cloacina");
assert.equal(execFileSync("echo", ["child"]).toString(), "child\\n");
assert.ok(os.networkInterfaces().lo);
fs.mkdtempSync(os.tmpdir() + "/made-");
for (let i = 0, sum = 0; i < 3e6; i++) sum += Math.sqrt(i);
new Worker("require('worker_threads').parentPort.postMessage(2)", { eval: true }).on("message", (it) => assert.equal(it, 2));
require("http").get("http://127.0.0.1:8080/health", (answer) => { assert.equal(answer.statusCode, 200); answer.resume(); });
""",
    # A program that is linked statically, with programs of its own behind it.
    "static": """#!./busybox sh
set -eux
./busybox seq 3 | ./busybox sort -n | ./busybox tail -n 1 | ./busybox grep -x 3
./busybox timeout 60 ./busybox true
./busybox wget -q -O - http://127.0.0.1:8080/health
! ./busybox ls /var/lib/cloacina
""",
}


def ordinary_tasks_work_under_the_unit():
    manifest = '[package]\nname = "trial"\nversion = "1.0.0"\n'
    with tempfile.TemporaryDirectory(dir="/var/lib/cloacina") as package:
        os.chmod(package, 0o755)
        for name, script in SCRIPTS.items():
            replace_file(f"{package}/{name}", script, 0o755)
            manifest += f'[[tasks]]\nid = "{name}"\ncommand = ["./{name}"]\n'
        shutil.copy("/bin/busybox", f"{package}/busybox")
        replace_file(f"{package}/package.toml", manifest)
        said = under_its_settings(f"{PROGRAM} workflow run {package} --sandbox partial", code=None)
    expect(f"({len(SCRIPTS)} completed)" in said and all(line in said for line in OPEN), said)


CHECKS = [
    the_sandbox_of_tasks_stands_under_the_unit,
    what_a_task_cannot_do_on_this_kernel,
    what_a_task_cannot_do_under_the_unit,
    ordinary_tasks_work_under_the_unit,
]
