//! TCP as its states tell it: connects, lifetimes, and what was sent again or reset. No hook on the path of segments.
//!
//! Who connects is taken from the caller of connect, hence right for sockets that do not block as well. Who has a server's
//! connection is known from its first message (see `messages`), until then its listener's process stands in.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): 220 ns a change of state, about 1 µs a connection and end, by the kernel's
//! statistics of programs, which add some 30 ns of their own.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Direction, Family, RowKey};

use crate::sock::{Connection, Sock, UNKNOWN, part};
use crate::typed_task::{Process, TypedTask};
use crate::{maps, now_ns, rows};

/// States (include/net/tcp_states.h).
pub const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECEIVED: u32 = 3;
const CLOSED: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LISTEN: u32 = 10;

/// `ECONNABORTED`.
const ABORTED: u8 = 103;

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(context: BtfTracePointContext) -> i32 {
    let Some(sock) = Sock::from_argument(&context, 0) else { return 0 };
    if !sock.is_tcp() {
        return 0;
    }
    let (old, new): (u32, u32) = (context.arg(1), context.arg(2));
    match new {
        SYN_SENT | LISTEN => is_used(sock, new),
        SYN_RECEIVED if old != SYN_SENT => is_taken(sock),
        ESTABLISHED => is_established(sock),
        CLOSED => is_closed(sock, old),
        _ => {}
    }
    0
}

/// connect or listen was called, by the current process.
#[inline(always)]
fn is_used(sock: Sock, state: u32) {
    let Some(connection) = sock.connection() else { return };
    connection.set_process(TypedTask::current().process());
    connection.part = if state == SYN_SENT { part::CLIENT } else { part::LISTENER };
    connection.connect_ns = if state == SYN_SENT { now_ns() } else { 0 };
    connection.established_ns = 0;
    connection.request_ns = 0;
    connection.rtt_taken_ns = 0;
    connection.unserved_port = 0;
}

/// A handshake with a listener of this host is done but for its last step; the socket was just made.
#[inline(always)]
fn is_taken(sock: Sock) {
    let Some(connection) = sock.connection() else { return };
    if connection.part == part::NEW {
        connection.set_process(UNKNOWN); // a listener older than the probes
    }
    connection.part = part::SERVER;
}

#[inline(always)]
fn is_established(sock: Sock) {
    let Some(connection) = sock.known_connection() else { return };
    let now_ns = now_ns();
    connection.established_ns = now_ns;
    if connection.connect_ns != 0 {
        connect_ends(connection, 0, now_ns);
    } else if connection.part == part::SERVER {
        connection.unserved_port = sock.local_port();
    }
}

#[inline(always)]
fn is_closed(sock: Sock, old: u32) {
    let Some(connection) = sock.known_connection() else { return };
    if connection.part == part::NEW {
        return;
    }
    let now_ns = now_ns();
    if connection.connect_ns != 0 {
        let error = sock.error() as u8;
        connect_ends(connection, if error == 0 { ABORTED } else { error }, now_ns);
    } else if connection.established_ns != 0 {
        let lifetime_ns = now_ns.wrapping_sub(connection.established_ns);
        rows::observe(&connection.key(Family::TcpLifetime), lifetime_ns);
        // The client reset it, or the listener went, before anybody accepted it.
        if connection.unserved_port != 0 && matches!(old, ESTABLISHED | CLOSE_WAIT) && !sock.is_open() {
            crate::messages::observe_wait(connection, connection.unserved_port, lifetime_ns);
        }
    }
    if connection.part != part::LISTENER {
        crate::messages::observe_rtt(sock, connection);
    }
    connection.established_ns = 0;
    connection.unserved_port = 0;
}

#[inline(always)]
fn connect_ends(connection: &mut Connection, errno: u8, now_ns: u64) {
    let duration_ns = now_ns.wrapping_sub(connection.connect_ns);
    connection.connect_ns = 0;
    let key = RowKey { family: Family::TcpConnect as u8, label: errno, ..connection.process().key() };
    rows::observe(&key, duration_ns);
}

/// `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`, and in newer kernels `int err`, which then are told of
/// what could not be sent, too.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit(context: BtfTracePointContext) -> i32 {
    if maps::retransmit_arguments() > 2 && context.arg::<u32>(2) != 0 {
        return 0;
    }
    if let Some(sock) = Sock::from_argument(&context, 0) {
        count(sock.process(), Family::TcpRetransmits, 0);
    }
    0
}

/// `tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req)`; the socket is the listener.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(context: BtfTracePointContext) -> i32 {
    if let Some(sock) = Sock::from_argument(&context, 0) {
        count(sock.process(), Family::TcpRetransmits, 0);
    }
    0
}

/// `tcp_send_reset(const struct sock *sk, const struct sk_buff *skb)`, from 6.10 on also the reason. Without a socket it is the
/// kernel's own answer to a segment that nobody waits for.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(context: BtfTracePointContext) -> i32 {
    let process = match Sock::from_argument(&context, 0) {
        Some(sock) => sock.process(),
        None => Process { start_time_ns: 0, tgid: 0 },
    };
    count(process, Family::TcpResets, Direction::Sent as u8);
    0
}

/// `tcp_receive_reset(struct sock *sk)`.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(context: BtfTracePointContext) -> i32 {
    if let Some(sock) = Sock::from_argument(&context, 0) {
        count(sock.process(), Family::TcpResets, Direction::Received as u8);
    }
    0
}

#[inline(always)]
fn count(process: Process, family: Family, label: u8) {
    rows::count(&RowKey { family: family as u8, label, ..process.key() }, 1);
}
