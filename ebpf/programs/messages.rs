//! Messages through sockets: bytes, how soon a response begins, how long a connection waits to be served, round trip times.
//!
//! The hooks are where a process has just sent or received (since 6.3, commit 6e6eda44b939); older kernels have none that every
//! segment would not pay for.
//!
//! How long a connection waits to be served: no tracepoint tells of accept itself, so the end of the wait is the first send or
//! receive of a process on the connection, failed ones included; the server's way from accept to there counts as well. Where that is
//! a receive, the wait begins only when data last arrived: before, the server had nothing to do, may long have accepted and waited
//! itself, so that a client that is slow to ask is not held against it. The kernel keeps that moment in ticks (1 to 10 ms), so it is
//! used only where it is later than the connection's own begin by more than one. Two biases are left: a client that sends again
//! makes the wait look shorter, and one that asks within a tick after connecting may make it look longer by that. Connections
//! that end before anybody accepted them have waited until then; those closed without a word are not counted.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): about 190 ns a message on TCP, measured by the kernel's statistics of programs,
//! which add some 30 ns of their own.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Direction, Family, Role, RowKey, Transport};

use crate::sock::{Connection, Sock, part};
use crate::tcp::ESTABLISHED;
use crate::typed_task::{Process, TypedTask};
use crate::{maps, now_ns, rows};

/// Round trip times are taken this seldom from a connection: the kernel's own figure is a mean over eight of them, so that
/// more often would count the same ones again.
const RTT_INTERVAL_NS: u64 = 10_000_000;

/// `MSG_PEEK`: the bytes stay, and will be counted when they are taken.
const PEEK: u32 = 2;

/// `sock_send_length(struct sock *sk, int ret, int flags)`, run by the sender.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send(context: BtfTracePointContext) -> i32 {
    message(&context, Direction::Sent)
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`, run by the receiver.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_receive(context: BtfTracePointContext) -> i32 {
    message(&context, Direction::Received)
}

#[inline(always)]
fn message(context: &BtfTracePointContext, direction: Direction) -> i32 {
    let Some(sock) = Sock::from_argument(context, 0) else { return 0 };
    let (result, flags): (i32, u32) = (context.arg(1), context.arg(2));
    let bytes = if flags & PEEK == 0 && result > 0 { result as u32 } else { 0 };
    let process = TypedTask::current().process();
    let transport = sock.transport();
    if bytes != 0 {
        let label = direction as u8 + 2 * transport as u8;
        let key = RowKey { family: Family::NetworkBytes as u8, label, ..process.key() };
        rows::count(&key, u64::from(bytes));
    }
    if let Transport::Tcp = transport
        && let Some(connection) = sock.connection()
    {
        converses(sock, connection, process, direction, bytes);
    }
    0
}

#[inline(always)]
fn converses(sock: Sock, connection: &mut Connection, process: Process, direction: Direction, bytes: u32) {
    if connection.part == part::NEW {
        connection.set_process(process);
        connection.part = sock.tcp().map_or(part::UNKNOWN, |tcp| tcp.part());
    }
    if connection.unserved_port != 0 {
        connection.set_process(process);
        is_served(sock, connection, matches!(direction, Direction::Received), bytes);
    }
    if bytes == 0 {
        return;
    }
    let receives = matches!(direction, Direction::Received);
    let (asks, port) = match connection.role() {
        Role::Client => (!receives, sock.remote_port()),
        Role::Server => (receives, sock.local_port()),
        Role::Unknown => return,
    };
    let now_ns = now_ns();
    if asks {
        if connection.request_ns == 0 {
            connection.request_ns = now_ns;
        }
    } else if connection.request_ns != 0 {
        let wait_ns = now_ns.wrapping_sub(core::mem::take(&mut connection.request_ns));
        rows::observe(&RowKey { detail: port, ..connection.key(Family::TcpFirstByte) }, wait_ns);
    }
    if receives && now_ns.wrapping_sub(connection.rtt_taken_ns) > RTT_INTERVAL_NS {
        connection.rtt_taken_ns = now_ns;
        observe_rtt(sock, connection);
    }
}

#[inline(never)]
fn is_served(sock: Sock, connection: &mut Connection, received: bool, bytes: u32) {
    let port = core::mem::take(&mut connection.unserved_port);
    let mut wait_ns = now_ns().wrapping_sub(connection.established_ns);
    if received {
        if bytes == 0 && u32::from(sock.state()) != ESTABLISHED {
            return; // closed without a word
        }
        let ticks = sock.tcp().map_or(u32::MAX, |tcp| tcp.ticks_since_data());
        let tick_ns = u64::from(maps::tick_ns());
        if (u64::from(ticks) + 1) * tick_ns < wait_ns {
            wait_ns = u64::from(ticks) * tick_ns;
        }
    }
    observe_wait(connection, port, wait_ns);
}

/// Counts how long a connection waited to be served.
#[inline(always)]
pub fn observe_wait(connection: &Connection, port: u16, wait_ns: u64) {
    let key = RowKey { label: 0, detail: port, ..connection.key(Family::TcpAcceptQueue) };
    rows::observe(&key, wait_ns);
}

/// Counts the round trip time as the kernel has it now.
#[inline(always)]
pub fn observe_rtt(sock: Sock, connection: &Connection) {
    if let Some(tcp) = sock.tcp() {
        let rtt_ns = tcp.smoothed_rtt_ns();
        if rtt_ns != 0 {
            rows::observe(&connection.key(Family::TcpRtt), rtt_ns);
        }
    }
}
