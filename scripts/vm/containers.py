"""The README's section about containers, and the guide's compose file, with a real Docker."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from lab import CHECKOUT, expect, expect_works, read, readme, replace_file, run, status, typed, wait_for

COMPOSE = (
    "export COMPOSE_PROJECT_NAME=cloacina COMPOSE_FILE=scripts/deploy/docker-compose.yaml\n"
    "docker compose {}"
)
FIRST_KEY = "/root/.cloacina/bootstrap-key"
API, DATABASE = "cloacina_api_1", "cloacina_postgres_1"
# What a checkout's user has typed before, and what the checks have found.
state = {}


def inspected(container, form):
    return run(["docker", "inspect", "--format", form, container]).strip()


def health(container):
    return inspected(container, "{{.State.Health.Status}}")


def piped(command):
    run(["bash", "-euo", "pipefail", "-c", command], limit=120)


def postgresql():
    """The files of this Debian that its PostgreSQL needs to run, and what a script needs."""
    programs = [f"/usr/bin/{name}" for name in "bash sh dash cat chmod chown env id mkdir setpriv".split()]
    place = "/usr/lib/postgresql/15"
    linked = run(["ldd", *programs, *(f"{place}/bin/{name}" for name in os.listdir(f"{place}/bin"))], code=None)
    libraries = {f"/usr{path}" for path in re.findall(r"(?<!\S)/lib\S*\.so\S*(?= \()", linked)}
    libraries |= {os.path.realpath(library) for library in libraries}
    data = "/bin /lib /lib64 /var/run /etc/passwd /etc/group /usr/lib/locale/C.utf8".split()
    data += ["/usr/share/postgresql", "/usr/share/zoneinfo"]
    return [name.lstrip("/") for name in [*programs, place, *sorted(libraries), *data]]


def images_from_elsewhere():
    """No check of the project: stand-ins for what a registry would bring."""
    wait_for("Docker", lambda: run(["systemctl", "is-active", "docker"], code=None) == "active\n", 60)
    plugins = "/usr/local/lib/docker/cli-plugins"
    os.makedirs(plugins)
    shutil.copy(f"{CHECKOUT}/scripts/vm/docker-compose.sh", f"{plugins}/docker-compose")
    # For busybox:1.37.0-musl, Debian's own busybox, which is static as well.
    piped(
        "mkdir -p /root/busybox/bin /root/busybox/etc /root/busybox/root /root/busybox/tmp && cd /root/busybox &&"
        " cp /bin/busybox bin && chroot . /bin/busybox --install -s /bin && chmod 1777 tmp &&"
        " echo root:x:0:0:root:/root:/bin/sh >etc/passwd && echo root:x:0: >etc/group &&"
        " tar -c . | docker import --change 'CMD [\"sh\"]' - busybox:1.37.0-musl"
    )
    archive = f"tar -c --exclude=bitcode --exclude='llvmjit*' {' '.join(postgresql())}"
    piped(f"cd / && {archive} | docker import - debian-postgresql")
    run(["docker", "build", "--quiet", "--tag", "postgres:16", f"{CHECKOUT}/scripts/vm/postgres"], limit=100)
    return run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]).replace("\n", ", ").strip(", ")


def the_readme_as_printed():
    block = readme("In containers").split("```sh\n")[1].split("```")[0]
    lines = block.splitlines()
    # That was done where the virtual machine was made.
    expect(lines[0] == "scripts/build-static.sh", f"the first line is another: {lines[0]}")
    state["key"] = typed("\n".join(lines[1:]), limit=140).splitlines()[-1]
    expect(re.fullmatch(r"clk_[\w-]{49}", state["key"]), f"it ends with {state['key']!r}")


def both_are_healthy_and_the_key_works():
    expect((health(API), health(DATABASE)) == ("healthy", "healthy"), f"{health(API)}, {health(DATABASE)}")
    said = typed(f"curl -sS -i http://localhost:8080/auth/whoami -H 'Authorization: Bearer {state['key']}'")
    expect(said.startswith("HTTP/1.1 200") and '"admin"' in said, said)


def the_image_is_as_promised():
    image = json.loads(run(["docker", "image", "inspect", "cloacinactl"]))[0]["Config"]
    expect(image["User"] == "10001:10001" and image["StopSignal"] == "SIGTERM", image)
    expect((image["Entrypoint"], image["Cmd"]) == (["cloacinactl"], ["serve"]), image)
    expect(typed("docker run --rm --network none cloacinactl --version").startswith("cloacinactl "), "--version")


def the_container_may_do_little():
    pid = inspected(API, "{{.State.Pid}}")
    said = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines())
    names = ("CapPrm", "CapEff", "CapBnd")
    expect(all(int(said[name], 16) == 0 for name in names), {name: said[name].strip() for name in names})
    expect(said["NoNewPrivs"].strip() == "1" and said["Seccomp"].strip() == "2", said)
    expect(said["Uid"].split() == ["10001"] * 4 and said["Gid"].split() == ["10001"] * 4, said["Uid"] + said["Gid"])
    for place in ("/", "/root", "/tmp", "/usr/local/bin"):
        seen = typed(f"docker exec {API} touch {place}/written 2>&1", code=1)
        expect("Read-only file system" in seen or "Permission denied" in seen, seen)
    seen = inspected(API, "{{.HostConfig.ReadonlyRootfs}}"), inspected(DATABASE, "{{.HostConfig.ReadonlyRootfs}}")
    expect(seen == ("true", "true"), f"read-only: {seen}")
    seen = typed(f"docker exec {API} stat -c '%a %u' /root/.cloacina {FIRST_KEY}").split("\n")[:2]
    expect(seen == ["700 10001", "600 10001"], seen)


def only_this_host_reaches_it():
    said = run(["ss", "-Hltn"])
    listening = sorted(line.split()[3] for line in said.splitlines())
    expect("127.0.0.1:8080" in listening, said)
    expect(not [address for address in listening if address.endswith(":5432")], said)
    expect([address for address in listening if address.endswith(":8080")] == ["127.0.0.1:8080"], said)


def the_secrets_stay_secret():
    password = read(f"{CHECKOUT}/scripts/deploy/secrets/postgres_password")
    for container in (API, DATABASE):
        expect(password not in run(["docker", "inspect", container]), f"docker inspect {container} shows it")
    said = typed(f"docker logs {API} 2>&1; docker logs {DATABASE} 2>&1")
    expect(password not in said and state["key"] not in said, "a log has it")


def a_restart_keeps_the_key():
    before = inspected(API, "{{.State.Pid}}")
    typed(COMPOSE.format("restart api"), limit=100)
    wait_for("the server", lambda: status("/ready") == 200, 60)
    expect(inspected(API, "{{.State.Pid}}") != before, "it is the same process")
    expect_works(state["key"])


def a_killed_server_is_replaced():
    pid = inspected(API, "{{.State.Pid}}")
    os.kill(int(pid), signal.SIGKILL)
    wait_for("another process", lambda: inspected(API, "{{.State.Pid}}") not in (pid, "0"), 60)
    wait_for("the server", lambda: status("/ready") == 200, 60)
    expect(inspected(API, "{{.RestartCount}}") == "1", f"{inspected(API, '{{.RestartCount}}')} restarts")
    expect_works(state["key"])


def a_stop_is_orderly():
    began = time.monotonic()
    typed(COMPOSE.format("stop"), limit=100)
    took = time.monotonic() - began
    ended = {name: inspected(name, "{{.State.Status}} {{.State.ExitCode}}") for name in (API, DATABASE)}
    expect(ended == {API: "exited 0", DATABASE: "exited 0"}, ended)
    said = typed(f"docker logs --tail 5 {API} 2>&1")
    expect("drained" in said, said)
    expect(took < 30, f"it took {took:.0f} s")
    return f"{took:.1f} s"


def other_containers_keep_the_data():
    typed(f"{COMPOSE.format('down')}\ndocker compose up -d --wait", limit=140)
    expect_works(state["key"])


def a_database_that_is_away_is_seen_and_waited_for():
    before = inspected(API, "{{.State.Pid}} {{.RestartCount}}")
    typed(COMPOSE.format("stop postgres"), limit=60)
    wait_for("it to be unhealthy", lambda: health(API) == "unhealthy", 90)
    seen = status("/ready"), status("/health"), status("/auth/whoami", state["key"])
    expect(seen == (503, 200, 503), f"/ready, /health, /auth/whoami: {seen}")
    typed(COMPOSE.format("start postgres"), limit=60)
    wait_for("it to be healthy", lambda: health(API) == "healthy", 60)
    expect_works(state["key"])
    expect(inspected(API, "{{.State.Pid}} {{.RestartCount}}") == before, "it was started again")


def the_database_of_the_guide():
    """With a server on the host, as a reader of the guide starts one."""
    typed(COMPOSE.format("down"), limit=100)
    command = "docker compose -f .angreal/docker-compose.yaml up -d"
    expect(f"`{command}`" in readme("In containers"), "the README says it in other words")
    typed(command, limit=60)
    url = "postgresql://cloacina:cloacina@localhost:5432/cloacina"
    words = ["setpriv", "--reuid=admin", "--regid=admin", "--init-groups", "env", "HOME=/home/admin"]
    words += [f"{CHECKOUT}/target/release/cloacinactl", "serve", "--database-url", url]
    # At once: it waits for a PostgreSQL that is still coming up.
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            said = server.stdout.readline()
            expect(said == "API server is running on http://0.0.0.0:8080\n", f"it says {said!r}")
            expect_works(read("/home/admin/.cloacina/bootstrap-key"))
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(40)
    expect(code == 0, f"it ended with {code}")
    # The guide's own file begins with an empty database.
    typed("docker compose -f .angreal/docker-compose.yaml down --volumes", limit=60)


def the_guides_own_file():
    tag = "docker tag cloacinactl your-registry/cloacinactl:latest"
    expect(f"`{tag}`" in readme("In containers"), "the README says it in other words")
    with open(f"{CHECKOUT}/tests/it/support/guide-compose.yaml", encoding="utf-8") as file:
        replace_file("/home/admin/guide/docker-compose.yaml", file.read())
    typed(tag)
    typed("cd /home/admin/guide && docker compose up -d", limit=120)
    show = f"cd /home/admin/guide && docker compose exec api cat {FIRST_KEY}"
    wait_for("the first key", lambda: typed(show, code=None).startswith("clk_"), 30)
    wait_for("the server", lambda: status("/ready") == 200, 30)
    expect_works(typed(show).strip())
    typed("cd /home/admin/guide && docker compose down", limit=60)


CHECKS = [
    images_from_elsewhere,
    the_readme_as_printed,
    both_are_healthy_and_the_key_works,
    the_image_is_as_promised,
    the_container_may_do_little,
    only_this_host_reaches_it,
    the_secrets_stay_secret,
    a_restart_keeps_the_key,
    a_killed_server_is_replaced,
    a_stop_is_orderly,
    other_containers_keep_the_data,
    a_database_that_is_away_is_seen_and_waited_for,
    the_database_of_the_guide,
    the_guides_own_file,
]
