//! Seccomp: system calls that a task is refused, since they lead around Landlock or into parts of the kernel that no
//! ordinary program needs.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::SandboxError;

/// What stays open where system calls cannot be filtered.
pub const OPEN_WITHOUT: [&str; 2] = [
    "Unix sockets: a database that trusts its user, D-Bus, docker.sock",
    "limits and priorities of the processes of its user, also the server's; its shared memory, message queues and key rings",
];

/// Refused whatever their arguments are, with EACCES: System V's and POSIX's ways to reach processes of the same user.
/// Those that only use what is there too: /proc/sysvipc tells which numbers that has.
const REFUSED: [libc::c_long; 18] = [
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Refused for a process that is not named by 0, the calling one. Not sched_setaffinity: libraries pin threads by their
/// ids, which the filter cannot tell from another process's.
const OWN_ALONE: [libc::c_long; 3] =
    [libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr];

/// What a process asks with to be traced by its parent.
const PTRACE_TRACEME: libc::c_int = libc::PTRACE_TRACEME as libc::c_int;

/// What `ioprio_set` calls all processes of a user.
const IOPRIO_WHO_USER: libc::c_int = 3;

/// Refused with ENOSYS, as by a kernel that is built without them: programs know what to do then. io_uring opens sockets
/// past this filter; key rings are shared by all of a user's processes; clone3 hides its flags from the filter, and
/// every C library goes on with clone; extended attributes and ACLs could be set on any file of the user, whose path Landlock
/// does not look at; the rest is of no use without privileges but to attack the kernel.
const ABSENT: [libc::c_long; 18] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_clone3,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
];

/// Of Linux 6.13, the same on every architecture; libc has no names for them yet.
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;

/// The bit that marks a number as one of the x32 calls, which have numbers of their own on x86-64.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// Puts the filters in force for this thread and what it starts. `no_new_privs` is set along with them.
///
/// # Errors
/// The kernel has no such filters, or what started this process refuses to set them.
pub fn restrict() -> Result<(), SandboxError> {
    let seccomp = |error| match error {
        seccompiler::Error::Seccomp(source) => SandboxError::Seccomp(Box::new(source)),
        error => SandboxError::Seccomp(Box::new(error)),
    };
    let absent = ABSENT.map(|number| (number, Vec::new())).into();
    let absent = program(absent, libc::ENOSYS).map_err(|error| seccomp(error.into()))?;
    let refused = refused().and_then(|rules| program(rules, libc::EACCES));
    let refused = refused.map_err(|error| seccomp(error.into()))?;
    apply_filter(&absent).map_err(seccomp)?;
    apply_filter(&refused).map_err(seccomp)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused() -> Result<Rules, seccompiler::BackendError> {
    let is = |argument, operator, value: libc::c_int| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value as u64)
    };
    let rule = |conditions| Ok(vec![SeccompRule::new(conditions)?]);
    let not_own = |argument| is(argument, SeccompCmpOp::Ne, 0);
    let unix = || is(0, SeccompCmpOp::Eq, libc::AF_UNIX);
    let new_user = || is(0, SeccompCmpOp::MaskedEq(libc::CLONE_NEWUSER as u64), libc::CLONE_NEWUSER);
    let mut rules: Rules = REFUSED.map(|number| (number, Vec::new())).into();
    rules.insert(libc::SYS_socket, rule(vec![unix()?])?);
    // A pair leads nowhere else, but for one of datagrams (SOCK_DGRAM is 2, and SOCK_RAW, 3, becomes that), each of which
    // may be sent anywhere.
    let datagrams = is(1, SeccompCmpOp::MaskedEq(0xe), libc::SOCK_DGRAM)?;
    rules.insert(libc::SYS_socketpair, rule(vec![unix()?, datagrams])?);
    // A user namespace has all privileges inside, with the parts of the kernel that ask for them.
    rules.insert(libc::SYS_unshare, rule(vec![new_user()?])?);
    rules.insert(libc::SYS_clone, rule(vec![new_user()?])?);
    // The supervisor would be the tracer, and it lets no process go on that stops for one.
    rules.insert(libc::SYS_ptrace, rule(vec![is(0, SeccompCmpOp::Eq, PTRACE_TRACEME)?])?);
    // Another process of the same user that is given no time to run, and none of its files, is as good as killed. The
    // libraries ask for their own process by 0.
    rules.insert(libc::SYS_prlimit64, rule(vec![not_own(0)?])?);
    // The same of one that runs only when there is nothing else to run. 0 of a user is every process of its.
    for number in OWN_ALONE {
        rules.insert(number, rule(vec![not_own(0)?])?);
    }
    for (number, all_of_user) in
        [(libc::SYS_setpriority, libc::PRIO_USER as libc::c_int), (libc::SYS_ioprio_set, IOPRIO_WHO_USER)]
    {
        let of_user = SeccompRule::new(vec![is(0, SeccompCmpOp::Eq, all_of_user)?])?;
        rules.insert(number, vec![of_user, SeccompRule::new(vec![not_own(1)?])?]);
    }
    Ok(rules)
}

/// A process that calls the kernel as another architecture does, with numbers that mean something else, is killed.
fn program(rules: Rules, error: libc::c_int) -> Result<BpfProgram, seccompiler::BackendError> {
    let refuse = SeccompAction::Errno(error as u32);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?;
    let mut program = x32_refused();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// The beginning of a program: load the number; if it has x32's bit, kill the process.
#[cfg(target_arch = "x86_64")]
fn x32_refused() -> BpfProgram {
    let instruction =
        |code: u32, jump: u8, value| sock_filter { code: code as u16, jt: 0, jf: jump, k: value };
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, X32_BIT),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn x32_refused() -> BpfProgram {
    Vec::new()
}
