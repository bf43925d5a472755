//! Names of system calls and of errors, and what a program is doing in a system call.

use syscalls::Sysno;

/// The name of system call `number` on this architecture.
#[must_use]
pub fn name(number: u16) -> Option<&'static str> {
    Sysno::new(usize::from(number)).map(|call| call.name())
}

/// What a program waits for in a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// For data: on a device, a socket or a pipe.
    Io,
    /// For another thread to let go of something.
    Lock,
    /// For time to pass, or for something to do.
    Sleep,
    /// None of these, or not to be told by the call alone.
    Other,
}

/// What a program does with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOperation {
    /// The family of send.
    Send,
    /// The family of recv.
    Receive,
    /// accept and accept4.
    Accept,
    /// connect.
    Connect,
}

impl SocketOperation {
    /// The word for it in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Accept => "accept",
            Self::Connect => "connect",
        }
    }
}

/// What the operation on a socket is where the call has no other use; read and write may be on anything.
#[must_use]
pub fn socket_operation(number: u16) -> Option<SocketOperation> {
    match name(number)? {
        "sendto" | "sendmsg" | "sendmmsg" => Some(SocketOperation::Send),
        "recvfrom" | "recvmsg" | "recvmmsg" => Some(SocketOperation::Receive),
        "accept" | "accept4" => Some(SocketOperation::Accept),
        "connect" => Some(SocketOperation::Connect),
        _ => None,
    }
}

/// What a thread that is off the CPU in this call waits for.
///
/// poll, select and epoll count as sleep: a server that waits for its next request has nothing to do.
#[must_use]
pub fn waiting(number: u16) -> Waiting {
    if socket_operation(number).is_some() {
        return Waiting::Io;
    }
    match name(number).unwrap_or_default() {
        "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64" | "writev" | "pwritev"
        | "pwritev2" | "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "msync"
        | "sendfile" | "splice" | "tee" | "vmsplice" | "copy_file_range" | "io_uring_enter" | "io_submit"
        | "io_getevents" | "io_pgetevents" => Waiting::Io,
        "futex" | "futex_wait" | "futex_waitv" | "futex_wake" | "futex_requeue" | "flock" | "semop"
        | "semtimedop" => Waiting::Lock,
        "nanosleep" | "clock_nanosleep" | "pause" | "rt_sigtimedwait" | "rt_sigsuspend" | "poll"
        | "ppoll" | "select" | "pselect6" | "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "wait4"
        | "waitid" => Waiting::Sleep,
        _ => Waiting::Other,
    }
}

macro_rules! error_names {
    ($($name:ident)*) => {
        /// The name of an errno (`errno(3)`); `None` for a number that has none.
        #[must_use]
        pub fn error_name(number: u16) -> Option<&'static str> {
            match i32::from(number) {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

// The numbers are libc's; those that are another's alias (EWOULDBLOCK, EDEADLOCK, ENOTSUP) are left out.
error_names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT
    EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV
    ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX
    ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
    ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN
    EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE
    ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(wanted: &str) -> u16 {
        (0..1000).find(|&number| name(number) == Some(wanted)).unwrap_or_else(|| panic!("no call {wanted}"))
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn names_are_those_of_the_kernels_header() {
        let Ok(header) = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") else {
            return;
        };
        let mut checked = 0;
        for line in header.lines() {
            let Some((call, number)) =
                line.strip_prefix("#define __NR_").and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            assert_eq!(name(number.trim().parse().expect("a number")), Some(call));
            checked += 1;
        }
        assert!(checked > 300, "{checked}");
    }

    #[test]
    fn calls_are_sorted_by_what_is_waited_for() {
        for (call, expected) in [
            ("read", Waiting::Io),
            ("recvmsg", Waiting::Io),
            ("io_uring_enter", Waiting::Io),
            ("futex", Waiting::Lock),
            ("epoll_wait", Waiting::Sleep),
            ("clock_nanosleep", Waiting::Sleep),
            ("openat", Waiting::Other),
        ] {
            assert_eq!(waiting(number(call)), expected, "{call}");
        }
        assert_eq!(
            (waiting(u16::MAX), socket_operation(u16::MAX), name(u16::MAX)),
            (Waiting::Other, None, None)
        );
        assert_eq!(socket_operation(number("accept4")), Some(SocketOperation::Accept));
        assert_eq!(socket_operation(number("read")), None);
    }

    #[test]
    fn errors_have_their_names() {
        assert_eq!(error_name(libc::ECONNREFUSED as u16), Some("ECONNREFUSED"));
        assert_eq!(
            (error_name(0), error_name(41), error_name(134), error_name(11)),
            (None, None, None, Some("EAGAIN"))
        );
        // Linux leaves out 41 and 58, which elsewhere are aliases.
        assert_eq!((1..=133).filter(|&number| error_name(number).is_none()).collect::<Vec<_>>(), [41, 58]);
    }
}
