//! A `struct sock` whose type the verifier knows, and what is kept beside each TCP socket.
//!
//! Socket storage lives and dies with its socket, so a freed address that comes back is a new connection. A hash by address would
//! mix the two up (measured: wrong under churn). Tracing programs may use it since 5.11 (commit 8e4597c627fb).

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_sk_storage_get, bpf_skc_to_tcp_sock};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Role, RowKey, Transport, UNKNOWN_PROCESS};

use crate::maps;
use crate::typed_task::{Process, load};

/// What is known of a TCP socket. All zeros is one that was just met.
#[repr(C)]
pub struct Connection {
    /// When connect was called, by `CLOCK_MONOTONIC`; 0 once it has an answer.
    pub connect_ns: u64,
    /// When it was established; 0 where that was before the probes, or has not happened.
    pub established_ns: u64,
    /// When the request that waits for its response began; 0 for none.
    pub request_ns: u64,
    /// When its round trip time was last taken.
    pub rtt_taken_ns: u64,
    /// When its process started.
    pub start_time_ns: u64,
    /// Its process.
    pub tgid: u32,
    /// One of [`part`].
    pub part: u16,
    /// The listener's port, from established until a process first sends or receives; 0 for all others.
    pub unserved_port: u16,
}

/// What a socket is in its connection.
pub mod part {
    /// Just met.
    pub const NEW: u16 = 0;
    /// Called connect.
    pub const CLIENT: u16 = 1;
    /// Was taken for a listener.
    pub const SERVER: u16 = 2;
    /// Older than the probes, and nothing tells which.
    pub const UNKNOWN: u16 = 3;
    /// Listens.
    pub const LISTENER: u16 = 4;
}

/// The definition of a socket storage map. aya-ebpf's own has no `BPF_F_CLONE` and no way to look up a traced socket.
#[repr(C)]
pub struct Connections {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Connection,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are never followed; the loader reads their types.
unsafe impl Sync for Connections {}

/// What is known of each TCP socket. `BPF_F_CLONE`: a connection begins with a copy of its listener's, hence with its process.
#[btf_map]
static CONNECTIONS: Connections = Connections {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// A socket.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

/// A `struct tcp_sock`.
#[derive(Clone, Copy)]
pub struct TcpSock(*const u8);

impl Sock {
    /// The argument of this index of a tracepoint, which must be a socket; `None` where there is none.
    #[inline(always)]
    pub fn from_argument(context: &BtfTracePointContext, index: usize) -> Option<Self> {
        let pointer: *const u8 = context.arg(index);
        (!pointer.is_null()).then_some(Self(pointer))
    }

    /// Whether it is a TCP socket.
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        load::<u16>(self.0, maps::sock_protocol()) == IPPROTO_TCP
    }

    /// What carries its bytes.
    #[inline(always)]
    pub fn transport(self) -> Transport {
        match load::<u16>(self.0, maps::sock_family()) {
            AF_INET | AF_INET6 => match load::<u16>(self.0, maps::sock_protocol()) {
                IPPROTO_TCP => Transport::Tcp,
                IPPROTO_UDP => Transport::Udp,
                _ => Transport::Other,
            },
            AF_UNIX => Transport::Unix,
            _ => Transport::Other,
        }
    }

    /// Its state in TCP (include/net/tcp_states.h).
    #[inline(always)]
    pub fn state(self) -> u8 {
        load(self.0, maps::sock_state())
    }

    /// Whether a process has it. A connection has none before accept, and none any more after close.
    #[inline(always)]
    pub fn is_open(self) -> bool {
        load::<u64>(self.0, maps::sock_socket()) != 0
    }

    /// Its own port.
    #[inline(always)]
    pub fn local_port(self) -> u16 {
        load(self.0, maps::sock_local_port())
    }

    /// The other end's port.
    #[inline(always)]
    pub fn remote_port(self) -> u16 {
        u16::from_be(load(self.0, maps::sock_remote_port()))
    }

    /// The errno that it broke by, 0 for none.
    #[inline(always)]
    pub fn error(self) -> u32 {
        let error: u32 = load(self.0, maps::sock_error());
        if error != 0 { error } else { load(self.0, maps::sock_soft_error()) }
    }

    /// The same socket as one of TCP.
    #[inline(always)]
    pub fn tcp(self) -> Option<TcpSock> {
        // SAFETY: the verifier knows the pointer for a socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        (!tcp.is_null()).then_some(TcpSock(tcp.cast()))
    }

    /// What is known of it, if it was met.
    #[inline(always)]
    pub fn known_connection(self) -> Option<&'static mut Connection> {
        self.storage(0)
    }

    /// What is known of it. `None` without memory, and for what is no full socket.
    #[inline(always)]
    pub fn connection(self) -> Option<&'static mut Connection> {
        self.storage(u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    }

    #[inline(always)]
    fn storage(self, flags: u64) -> Option<&'static mut Connection> {
        let map = (&raw const CONNECTIONS).cast_mut().cast();
        // SAFETY: a map of that kind and a socket; the kernel zeroes what it makes, and keeps it while a program runs.
        unsafe {
            let storage = bpf_sk_storage_get(map, self.0.cast_mut().cast(), core::ptr::null_mut(), flags);
            storage.cast::<Connection>().as_mut()
        }
    }

    /// The process that has it, as far as that is known.
    #[inline(always)]
    pub fn process(self) -> Process {
        match self.known_connection() {
            Some(connection) => connection.process(),
            None => UNKNOWN,
        }
    }
}

/// The process of a socket that nobody has used since the probes are there.
pub const UNKNOWN: Process = Process { start_time_ns: 0, tgid: UNKNOWN_PROCESS };

impl Connection {
    /// Its process.
    #[inline(always)]
    pub fn process(&self) -> Process {
        if self.part == part::NEW {
            return UNKNOWN;
        }
        Process { start_time_ns: self.start_time_ns, tgid: self.tgid }
    }

    /// Gives it to a process.
    #[inline(always)]
    pub fn set_process(&mut self, process: Process) {
        self.start_time_ns = process.start_time_ns;
        self.tgid = process.tgid;
    }

    /// Its end of the connection.
    #[inline(always)]
    pub fn role(&self) -> Role {
        match self.part {
            part::CLIENT => Role::Client,
            part::SERVER => Role::Server,
            _ => Role::Unknown,
        }
    }

    /// A key of its process and role.
    #[inline(always)]
    pub fn key(&self, family: hostscope_wire::row::Family) -> RowKey {
        RowKey { family: family as u8, label: self.role() as u8, ..self.process().key() }
    }
}

impl TcpSock {
    /// The smoothed round trip time; 0 where none was measured.
    #[inline(always)]
    pub fn smoothed_rtt_ns(self) -> u64 {
        // Eighths of a microsecond (`tcp_sock.srtt_us`, include/linux/tcp.h).
        u64::from(load::<u32>(self.0, maps::tcp_smoothed_rtt())) * 1000 / 8
    }

    /// How many ticks ago data last arrived; where none has, since the connection was made.
    #[inline(always)]
    pub fn ticks_since_data(self) -> u32 {
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_jiffies64() } as u32;
        now.wrapping_sub(load(self.0, maps::tcp_last_data()))
    }

    /// Which end it is, told from its local port: the kernel marks a port that connect chose (`fastreuse` of −1,
    /// `__inet_hash_connect` in net/ipv4/inet_hashtables.c), and a connection taken for a listener shares the listener's port,
    /// which was bound. Who binds before it connects is taken for a server.
    #[inline(always)]
    pub fn part(self) -> u16 {
        let bucket: *const u8 = load(self.0, maps::tcp_bind_bucket());
        if bucket.is_null() {
            return part::UNKNOWN;
        }
        if load::<i8>(bucket, maps::bucket_reuse()) < 0 { part::CLIENT } else { part::SERVER }
    }
}
