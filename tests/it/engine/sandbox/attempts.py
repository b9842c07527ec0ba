"""What a task must not do, attempted: run inside the sandbox and outside it by the same user, see table.py.

Prints a line for each attempt, its name and `ok`, or the error, or the signal that ended it.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
# x86-64 and aarch64.
NUMBERS = {
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
}
AT = json.loads(os.environ["FIXTURE"])
ATTEMPTS = []


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(name, *arguments):
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    return checked(LIBC.syscall(number, *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)))


def attempt(part, refused_with="EACCES", optional=False):
    """`part` of the sandbox is what closes it; an optional one is refused outside as well on some hosts."""

    def add(function):
        ATTEMPTS.append((function.__name__, part, refused_with.split(), optional, function))
        return function

    return add


def reading(name, path, refused_with="EACCES"):
    attempt("files", refused_with)(named(f"read_{name}", lambda: open(path, "rb").read(1)))


def listing(name, path, refused_with="EACCES"):
    attempt("files", refused_with)(named(f"list_{name}", lambda: os.listdir(path)))


def named(name, function):
    function.__name__ = name
    return function


# --- reading ----------------------------------------------------------------------------------------------------

reading("key_of_server", AT["home"] + "/secrets-key")
reading("configuration_of_server", AT["home"] + "/config.toml")
reading("file_of_other_task", AT["other_task"] + "/context.json")
reading("package_of_other_tenant", AT["other_package"] + "/run.sh")
reading("through_link", AT["task"] + "/link-to-key")
reading("through_link_in_package", AT["package"] + "/link-to-key")
reading("through_dots", AT["task"] + "/../home/secrets-key")
listing("root_directory", "/")
listing("home", "/home")
listing("var", "/var")
listing("srv", "/srv")
listing("tmp", "/tmp")
listing("dev", "/dev")
listing("dev_shm", "/dev/shm")
listing("run", "/run")
listing("sys", "/sys")
listing("home_of_server", AT["home"])


@attempt("files")
def execute_file_of_other_tenant():
    checked(subprocess.run([AT["other_package"] + "/run.sh"], check=False).returncode)


# --- writing ----------------------------------------------------------------------------------------------------


def writing(name, path):
    attempt("files")(named(f"write_{name}", lambda: os.close(os.open(path, os.O_WRONLY))))


writing("key_of_server", AT["home"] + "/secrets-key")
writing("package", AT["package"] + "/run.sh")
writing("what_is_readable", AT["readable"] + "/file")
writing("file_of_other_task", AT["other_task"] + "/context.json")
writing("through_link", AT["task"] + "/link-to-key")
writing("through_link_to_package", AT["task"] + "/link-to-package/run.sh")


@attempt("files")
def create_in_package():
    open(AT["package"] + "/new", "x").close()


@attempt("files")
def create_in_tmp():
    path = f"/tmp/cloacinactl-it-attempt-{os.getpid()}"
    open(path, "x").close()
    os.remove(path)


@attempt("files")
def create_in_dev_shm():
    path = f"/dev/shm/cloacinactl-it-attempt-{os.getpid()}"
    open(path, "x").close()
    os.remove(path)


@attempt("files")
def make_directory_outside():
    os.mkdir(AT["home"] + "/directory")


@attempt("files")
def make_fifo_outside():
    os.mkfifo(AT["home"] + "/fifo")


@attempt("files")
def make_symbolic_link_outside():
    os.symlink("/", AT["home"] + "/symbolic-link")


@attempt("files")
def remove_outside():
    os.remove(AT["home"] + "/to-be-removed")


@attempt("files")
def remove_directory_outside():
    os.rmdir(AT["home"] + "/directory-to-be-removed")


@attempt("files", "EXDEV EACCES")
def hard_link_to_key():
    os.link(AT["home"] + "/secrets-key", AT["task"] + "/hard-link")


@attempt("files", "EXDEV EACCES")
def hard_link_to_package():
    os.link(AT["package"] + "/run.sh", AT["task"] + "/hard-link-to-package")


@attempt("files", "EXDEV EACCES")
def rename_into_own_directory():
    os.rename(AT["home"] + "/to-be-renamed", AT["task"] + "/renamed")


@attempt("files", "EXDEV EACCES")
def rename_out_of_own_directory():
    os.rename(AT["task"] + "/to-be-renamed", AT["home"] + "/renamed")


@attempt("truncate")
def truncate_file_of_server():
    os.truncate(AT["home"] + "/to-be-truncated", 0)


@attempt("truncate")
def truncate_package():
    os.truncate(AT["package"] + "/to-be-truncated", 0)


@attempt("calls", "ENOSYS", optional=True)
def set_extended_attribute_outside():
    os.setxattr(AT["home"] + "/secrets-key", "user.hidden", b"data")


@attempt("files")
def open_terminal():
    os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))


# --- processes --------------------------------------------------------------------------------------------------


# A /proc with hidepid, as under ProtectProc=invisible, does not even show what may not be traced.
HIDDEN = "EACCES ENOENT"


def processes(name, pid, address):
    reading(f"environment_of_{name}", f"/proc/{pid}/environ", HIDDEN)
    reading(f"memory_map_of_{name}", f"/proc/{pid}/maps", HIDDEN)
    listing(f"root_of_{name}", f"/proc/{pid}/root/", HIDDEN)
    listing(f"working_directory_of_{name}", f"/proc/{pid}/cwd/", HIDDEN)
    reading(f"descriptor_of_{name}", f"/proc/{pid}/fd/3", HIDDEN)
    attempt("files", HIDDEN)(named(f"open_memory_of_{name}", lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))))
    attempt("files", "EPERM")(named(f"trace_{name}", lambda: checked(LIBC.ptrace(0x4206, pid, None, None))))
    attempt("files", "EPERM")(named(f"take_descriptor_of_{name}", lambda: take_descriptor(pid)))
    attempt("files", "EPERM")(named(f"copy_memory_of_{name}", lambda: copy_memory(pid, address)))
    attempt("calls")(named(f"limit_{name}", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1000, 1000))))
    attempt("calls")(named(f"schedule_{name}", lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))))
    attempt("calls")(named(f"parameter_of_{name}", lambda: os.sched_setparam(pid, os.sched_param(0))))
    attempt("calls")(named(f"priority_of_{name}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 1)))
    attempt("calls")(named(f"priority_of_group_of_{name}", lambda: os.setpriority(os.PRIO_PGRP, os.getpgid(pid), 1)))
    # SCHED_BATCH, no flags, and a nice value.
    attributes = struct.pack("IIQiIQQQ", 48, 3, 0, 2, 0, 0, 0, 0)
    attempt("calls")(named(f"attributes_of_{name}", lambda: call("sched_setattr", pid, attributes, 0)))
    # A process or a group, best effort, the last of its levels.
    attempt("calls")(named(f"disk_priority_of_{name}", lambda: call("ioprio_set", 1, pid, 2 << 13 | 7)))
    attempt("calls")(named(f"disk_priority_of_group_of_{name}", lambda: call("ioprio_set", 2, os.getpgid(pid), 2 << 13 | 7)))
    attempt("signals", "EPERM")(named(f"signal_{name}", lambda: os.kill(pid, 0)))
    attempt("signals", "EPERM")(named(f"signal_group_of_{name}", lambda: os.killpg(os.getpgid(pid), 0)))


def take_descriptor(pid):
    call("pidfd_getfd", call("pidfd_open", pid, 0), 3, 0)


def copy_memory(pid, address):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    own = ctypes.create_string_buffer(8)
    here = Vector(ctypes.addressof(own), 8)
    there = Vector(address, 8)
    checked(LIBC.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))


processes("server", AT["server"], AT["address_in_server"])
processes("other_task", AT["other"], AT["address_in_other"])


@attempt("signals", "EPERM", optional=True)
def signal_every_process():
    if not AT["is_user_made_up"]:
        raise OSError(errno.EPERM, "it would reach processes that are not the test's")
    # Which the tests' own processes block.
    os.kill(-1, signal.SIGUSR2)
    with open(f"/proc/{AT['server']}/status", encoding="utf-8") as file:
        pending = next(line.split()[1] for line in file if line.startswith("ShdPnd:"))
    if int(pending, 16) & 1 << (signal.SIGUSR2 - 1) == 0:
        raise OSError(errno.EPERM, "it reached no other process")


def of_made_up_user(function):
    """It would change processes that are not the test's."""
    if not AT["is_user_made_up"]:
        raise OSError(errno.EPERM, "this user has other processes")
    return function()


for who in (0, os.geteuid()):
    attempt("calls", optional=True)(
        named(f"priority_of_user_{who}", lambda who=who: of_made_up_user(lambda: os.setpriority(os.PRIO_USER, who, 3)))
    )
    attempt("calls", optional=True)(
        named(f"disk_priority_of_user_{who}", lambda who=who: of_made_up_user(lambda: call("ioprio_set", 3, who, 2 << 13 | 7)))
    )


@attempt("calls")
def be_traced_by_parent():
    """In a child, which only then ends: it would stop at its next signal."""
    child = os.fork()
    if child == 0:
        try:
            call("ptrace", 0, 0, 0, 0)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


@attempt("calls")
def connect_to_socket_of_server():
    socket.socket(socket.AF_UNIX).connect(AT["socket"])


@attempt("calls")
def connect_to_abstract_socket():
    socket.socket(socket.AF_UNIX).connect("\0" + AT["abstract_socket"])


@attempt("calls")
def send_from_pair_of_sockets():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", AT["datagram_socket"])


@attempt("calls")
def send_from_pair_of_raw_sockets():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b"x", AT["datagram_socket"])


@attempt("calls")
def make_datagram_socket():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


@attempt("calls")
def shared_memory():
    LIBC.shmctl(checked(LIBC.shmget(0, 4096, 0o600)), 0, None)


@attempt("calls")
def semaphores():
    LIBC.semctl(checked(LIBC.semget(0, 1, 0o600)), 0, 0)


@attempt("calls")
def message_queue():
    LIBC.msgctl(checked(LIBC.msgget(0, 0o600)), 0, None)


def existing(name, function):
    """On what is there already, which /proc/sysvipc tells."""
    attempt("calls")(named(name, lambda: checked(function())))


IPC_NOWAIT, IPC_STAT, GETVAL = 0o4000, 2, 12
LIBC.shmat.restype = ctypes.c_long
ROOM = ctypes.create_string_buffer(1024)
MESSAGE = ctypes.create_string_buffer(struct.pack("lc", 1, b"x"))
NO_CHANGE = struct.pack("Hhh", 0, 1, 0)
existing("attach_shared_memory_of_server", lambda: LIBC.shmat(AT["shared_memory"], None, 0))
existing("look_at_shared_memory_of_server", lambda: LIBC.shmctl(AT["shared_memory"], IPC_STAT, ROOM))
existing("send_message_to_server", lambda: LIBC.msgsnd(AT["messages"], MESSAGE, ctypes.c_size_t(1), IPC_NOWAIT))
existing(
    "take_message_of_server",
    lambda: LIBC.msgrcv(AT["messages"], ROOM, ctypes.c_size_t(1), ctypes.c_long(0), IPC_NOWAIT),
)
existing("look_at_messages_of_server", lambda: LIBC.msgctl(AT["messages"], IPC_STAT, ROOM))
existing("change_semaphore_of_server", lambda: LIBC.semop(AT["semaphores"], NO_CHANGE, ctypes.c_size_t(1)))
existing("change_semaphore_in_time", lambda: LIBC.semtimedop(AT["semaphores"], NO_CHANGE, ctypes.c_size_t(1), None))
existing("look_at_semaphores_of_server", lambda: LIBC.semctl(AT["semaphores"], 0, GETVAL))


def with_no_queue(name):
    try:
        call(name, -1, 0, 0, 0, 0)
    except OSError as error:
        # As the kernel answers that has it.
        if error.errno != errno.EBADF:
            raise


for queue_call in ("mq_timedsend", "mq_timedreceive", "mq_getsetattr", "mq_notify"):
    attempt("calls", optional=True)(named(queue_call, lambda queue_call=queue_call: with_no_queue(queue_call)))


@attempt("calls", optional=True)
def remove_message_queue_of_server():
    checked(LIBC.mq_unlink(AT["queue"].encode()))


@attempt("calls", optional=True)
def posix_message_queue():
    name = f"/cloacinactl-it-{os.getpid()}".encode()
    checked(LIBC.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None))
    LIBC.mq_unlink(name)


# --- privileges -------------------------------------------------------------------------------------------------


@attempt("privileges", "EPERM", optional=True)
def run_as_root_by_setuid():
    if os.stat(AT["setuid"]).st_mode & 0o4000 == 0 or os.stat(AT["setuid"]).st_uid != 0:
        raise OSError(errno.ENOENT, "there is none where the tests are not root")
    said = subprocess.run([AT["setuid"], "-u"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if said.strip() != "0":
        raise OSError(errno.EPERM, said)


@attempt("calls", optional=True)
def user_namespace():
    checked(LIBC.unshare(0x10000000))


@attempt("calls", optional=True)
def mount_in_user_namespace():
    checked(LIBC.unshare(0x10000000 | 0x00020000))
    checked(LIBC.mount(b"none", AT["task"].encode(), b"tmpfs", 0, None))


@attempt("calls", "ENOSYS", optional=True)
def io_uring():
    call("io_uring_setup", 1, ctypes.create_string_buffer(120))


@attempt("calls", "ENOSYS", optional=True)
def key_ring():
    call("keyctl", 0, -3, 1)


@attempt("calls", "ENOSYS")
def clone_with_hidden_flags():
    try:
        call("clone3", 0, 0)
    except OSError as error:
        # As the kernel answers that has it.
        if error.errno != errno.EINVAL:
            raise


@attempt("calls", "ENOSYS")
def kernel_programs():
    try:
        call("bpf", 0, 0, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise


@attempt("calls", "SIGSYS")
def call_as_x32():
    if os.uname().machine == "x86_64":
        LIBC.syscall(0x40000000 | 39)
    elif "inside" in sys.argv:
        os.kill(os.getpid(), signal.SIGSYS)


@attempt("limits", "ECANCELED", optional=True)
def dump_core():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        pass
    os.chdir(AT["task"])
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    if not os.WCOREDUMP(os.waitpid(child, 0)[1]):
        raise OSError(errno.ECANCELED, "no core")


@attempt("descriptors", "EBADF")
def use_left_descriptor():
    os.pread(7, 1, 0)


def outcome(function):
    """In a process of its own: it may be killed, or change what it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            function()
            said = "ok"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error))
        except BaseException as error:  # pylint: disable=broad-except
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    for name, part, refusals, is_optional, attempted in ATTEMPTS:
        print(json.dumps([name, part, refusals, is_optional, outcome(attempted)]), flush=True)
