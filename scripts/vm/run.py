"""Boots the virtual machines and judges what they say. See vm.sh."""

import argparse
import os
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import guest

# For each part its boots, one after another on the same disk, and the services that would be in the way.
NO_DOCKER = ["docker.service", "docker.socket", "containerd.service"]
BOOTS = {
    "systemd": [("systemd", NO_DOCKER), ("after_reboot", NO_DOCKER)],
    "containers": [("containers", ["postgresql.service"])],
}
BOOT_SECONDS = 900


def project(path, programs):
    """A checkout as git has it, with the programs where builds leave them, for the virtual machine to unpack."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    with tarfile.open(path, "w") as archive:
        for name in listed.stdout.decode().split("\0"):
            if os.path.lexists(name):
                archive.add(name)
        for source, name in programs:
            archive.add(source, name, filter=executable)
    # A disk has whole sectors.
    os.truncate(path, -(-os.path.getsize(path) // 512) * 512)


def executable(member):
    member.mode = 0o755
    return member


def boot(name, masked, image, disk, tar):
    """The lines that the checks of one boot print, as they come; and why it ended, unless by itself."""
    console = f"{image}/console-{name}.log"
    words = [f"checks={name}", *(f"systemd.mask={unit}" for unit in masked)]
    # Emulated: a /dev/kvm may be there and hang all the same.
    command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi"]
    command += ["-M", "q35", "-cpu", "max", "-smp", "2", "-m", "3072"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci"]
    command += ["-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd"]
    command += ["-append", f"root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=0 {' '.join(words)}"]
    command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    command += ["-drive", f"file={tar},format=raw,if=virtio,readonly=on"]
    command += ["-serial", f"file:{console}", "-serial", "stdio"]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    until = time.monotonic() + BOOT_SECONDS
    said = b""
    try:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return said.decode(errors="replace"), f"it did not end within {BOOT_SECONDS} s"
            if select.select([machine.stdout], [], [], min(left, 1))[0]:
                got = os.read(machine.stdout.fileno(), 4096)
                if not got:
                    break
                said += got
                os.write(sys.stdout.fileno(), got.replace(b"\r", b""))
        code = machine.wait(max(1, until - time.monotonic()))
        return said.decode(errors="replace"), f"it ended with {code}" if code else None
    except subprocess.TimeoutExpired:
        return said.decode(errors="replace"), "it did not end"
    finally:
        if machine.poll() is None:
            machine.kill()
            machine.wait()


def judge(name, said, ended):
    """What is wrong with a boot, a line each."""
    lines = said.replace("\r", "").splitlines()
    wrong = [line.split(":")[0] for line in lines if line.startswith("FAILED ")]
    done = [line.split(" ")[1].rstrip(":") for line in lines if line.startswith(("ok ", "FAILED "))]
    for check in guest.BOOTS[name]:
        if check.__name__ not in done:
            wrong.append(f"missing {check.__name__}")
    if ended or "all done" not in lines:
        wrong.append(f"{name}: {ended or 'it ended early'}; target/vm/console-{name}.log has more")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--program", action="append", nargs=2, default=[])
    parser.add_argument("parts", nargs="+")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wrong = []
    with tempfile.TemporaryDirectory(prefix="run-", dir=asked.image) as scratch:
        tar = f"{scratch}/project.tar"
        project(tar, asked.program)
        for part in asked.parts:
            disk = f"{scratch}/disk.ext4"
            subprocess.run(["cp", "--sparse=always", f"{asked.image}/disk.ext4", disk], check=True)
            for name, masked in BOOTS[part]:
                began = time.monotonic()
                print(f"== {name}", flush=True)
                wrong += judge(name, *boot(name, masked, asked.image, disk, tar))
                print(f"== {name} took {time.monotonic() - began:.0f} s", flush=True)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
