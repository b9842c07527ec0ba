"""Runs a program as on a system where one system call fails: without.py CALL ERROR PROGRAM ARGUMENTS..."""

import ctypes
import errno
import os
import struct
import sys

# On x86-64 and aarch64.
NUMBERS = {"landlock_create_ruleset": (444, 444), "landlock_restrict_self": (446, 446), "seccomp": (317, 277)}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2


def instruction(code, jump_if_not, value):
    return struct.pack("HBBI", code, 0, jump_if_not, value)


call, error, *command = sys.argv[1:]
program = instruction(0x20, 0, 0)  # Load the number.
program += instruction(0x15, 1, NUMBERS[call][os.uname().machine == "aarch64"])
program += instruction(0x06, 0, 0x00050000 | getattr(errno, error))
program += instruction(0x06, 0, 0x7FFF0000)
instructions = ctypes.create_string_buffer(program)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
fields = Program(len(program) // 8, ctypes.addressof(instructions))
if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
    sys.exit("PR_SET_NO_NEW_PRIVS")
if libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(fields)) != 0:
    sys.exit(f"PR_SET_SECCOMP: {os.strerror(ctypes.get_errno())}")
os.set_inheritable(3, True) if os.path.exists("/proc/self/fd/3") else None
os.execv(command[0], command)
