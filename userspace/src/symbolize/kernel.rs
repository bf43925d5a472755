//! Names of kernel addresses: by asking the kernel (`load::kernel_names`), and where it cannot be asked from one pass
//! over `/proc/kallsyms`.
//!
//! The kernel makes the text anew at each read (0.25 µs a symbol, 30 ms for 120,000, four times what parsing costs),
//! so the pass ends as soon as no later line can matter, and a caller with no kernel addresses reads nothing.
//!
//! The format is `ADDRESS TYPE NAME[\t[MODULE]]`: `s_show` in kernel/kallsyms.c, unchanged since 2.6.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::demangle::demangle;
use super::lines::{End, for_each_line, hexadecimal};
use super::sorted::Sorted;
use crate::error::Error;
use crate::load::kernel_names::KernelLookup;

/// How much of the text is read: fifty times what a kernel with 120,000 symbols has.
const MAX_TEXT_BYTES: u64 = 256 * 1024 * 1024;
/// How far behind its symbol an address may lie. The symbols have no sizes; what lies farther from the last one is a gap
/// (freed code of the start, between modules).
const MAX_FUNCTION_BYTES: u64 = 1024 * 1024;

/// A kernel function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSymbol {
    /// The function's name.
    pub name: Arc<str>,
    /// The module it belongs to (`bpf` for BPF programs), without brackets; `None` for the kernel itself.
    pub module: Option<Arc<str>>,
}

/// Kernel names, as many as could be found.
#[derive(Debug)]
pub struct KernelNames {
    /// One entry for each address asked for, in the same order.
    pub symbols: Vec<Option<KernelSymbol>>,
    /// Why there are none or not all, and the mend.
    pub shortfall: Option<Error>,
}

/// A symbol on probation: the last one known to start at or before some wanted address.
#[derive(Clone, Default)]
struct Nearest {
    start: u64,
    /// Name and, after a tab, the module in brackets; empty where there is no symbol yet.
    name: Vec<u8>,
}

/// The names of `addresses` by asking for each.
///
/// # Errors
/// What bpf(2) gives.
pub(super) fn by_asking(lookup: &KernelLookup, addresses: &[u64]) -> io::Result<Vec<Option<KernelSymbol>>> {
    let mut last: Option<KernelSymbol> = None;
    addresses
        .iter()
        .map(|&address| {
            let text = lookup.ask(address)?;
            // What has no name is written as a number.
            if text.is_empty() || text.starts_with(b"0x") {
                return Ok(None);
            }
            let symbol = symbol(&text);
            // Addresses of one function are neighbours: they share the text.
            let known = last.take().filter(|last| *last == symbol).unwrap_or(symbol);
            last = Some(known.clone());
            Ok(Some(known))
        })
        .collect()
}

/// The names of `addresses` by the running kernel's own table.
pub(super) fn by_kallsyms(addresses: &[u64]) -> KernelNames {
    if addresses.is_empty() {
        return KernelNames { symbols: Vec::new(), shortfall: None };
    }
    match File::open("/proc/kallsyms").and_then(|text| kallsyms(text, addresses)) {
        Ok(names) => names,
        Err(error) => KernelNames {
            symbols: vec![None; addresses.len()],
            shortfall: Some(Error::kernel(
                format!("kernel functions have no names: cannot read /proc/kallsyms: {error}"),
                "mount /proc, and use a kernel built with CONFIG_KALLSYMS",
            )),
        },
    }
}

/// The names of `addresses` by a text in the format of `/proc/kallsyms`.
///
/// # Errors
/// What reading `text` gives.
pub fn kallsyms(text: impl Read, addresses: &[u64]) -> io::Result<KernelNames> {
    let wanted = Sorted::new(addresses.iter().copied().map(Some));
    let mut search = Search::new(wanted.addresses());
    let end = for_each_line(text, MAX_TEXT_BYTES, |line| search.line(line))?;
    if search.hidden {
        return Ok(KernelNames { symbols: vec![None; addresses.len()], shortfall: Some(hidden()) });
    }
    let shortfall = (end == End::Limit).then(|| {
        Error::kernel(
            format!(
                "some kernel functions have no names: /proc/kallsyms has more than {MAX_TEXT_BYTES} bytes"
            ),
            "report it with the kernel's version",
        )
    });
    Ok(KernelNames { symbols: wanted.restore(search.names()), shortfall })
}

/// The one pass.
struct Search<'a> {
    /// Ascending.
    wanted: &'a [u64],
    /// For each wanted address, the symbol with the greatest start that is not nearer to an earlier address.
    nearest: Vec<Nearest>,
    /// Which of the wanted addresses the last symbol stood before.
    last: usize,
    /// The first text symbol's address; the kernel's own text begins there.
    first: Option<u64>,
    /// The greatest address so far, while they only ascend.
    ascending: Option<u64>,
    /// Whether the kernel shows zeros in place of addresses.
    hidden: bool,
}

impl<'a> Search<'a> {
    fn new(wanted: &'a [u64]) -> Self {
        let nearest = vec![Nearest::default(); wanted.len()];
        Self { wanted, nearest, last: 0, first: None, ascending: Some(0), hidden: false }
    }

    fn line(&mut self, line: &[u8]) -> ControlFlow<()> {
        let Some((address, [b' ', kind, b' ', name @ ..])) = hexadecimal(line) else {
            return ControlFlow::Continue(());
        };
        if !matches!(kind, b't' | b'T' | b'w' | b'W') {
            return ControlFlow::Continue(());
        }
        if address == 0 {
            // Code never lies at zero, nor does the kernel's list begin with a symbol that is not defined.
            self.hidden = self.first.is_none();
            return if self.hidden { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        let (Some(&lowest), Some(&highest)) = (self.wanted.first(), self.wanted.last()) else {
            return ControlFlow::Break(());
        };
        let first = *self.first.get_or_insert(address);
        self.ascending = self.ascending.filter(|&greatest| greatest <= address).map(|_| address);
        if address > highest {
            // The kernel's own symbols come first and ascend: its own lookup is a binary search over this order
            // (`get_symbol_pos`). Modules and BPF follow in no order, above or below, so that with a wanted address
            // among them every line must be seen.
            let done = self.ascending.is_some() && lowest >= first && !name.contains(&b'\t');
            return if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        // Mostly the next symbol stands before the same wanted address as the last one.
        let elsewhere =
            self.last > 0 && self.wanted[self.last - 1] >= address || self.wanted[self.last] < address;
        if elsewhere {
            self.last = self.wanted.partition_point(|&wanted| wanted < address);
        }
        let nearest = &mut self.nearest[self.last];
        // Of several symbols at one address the first: the kernel sorts the best to the front, and says that one too.
        if address > nearest.start {
            nearest.start = address;
            nearest.name.clear();
            nearest.name.extend_from_slice(name);
        }
        ControlFlow::Continue(())
    }

    fn names(&self) -> Vec<Option<KernelSymbol>> {
        let none = Nearest::default();
        let mut nearest = &none;
        let mut last: Option<(u64, KernelSymbol)> = None;
        let mut names = Vec::with_capacity(self.wanted.len());
        for (&address, candidate) in self.wanted.iter().zip(&self.nearest) {
            if candidate.start > nearest.start {
                nearest = candidate;
            }
            if nearest.start == 0
                || address - nearest.start > MAX_FUNCTION_BYTES
                || is_end_mark(&nearest.name)
            {
                names.push(None);
                continue;
            }
            let symbol = match &last {
                Some((start, symbol)) if *start == nearest.start => symbol.clone(),
                _ => symbol(&nearest.name),
            };
            last = Some((nearest.start, symbol.clone()));
            names.push(Some(symbol));
        }
        names
    }
}

/// Whether a symbol marks where code ends rather than where a function begins.
fn is_end_mark(name: &[u8]) -> bool {
    matches!(name, b"_etext" | b"_einittext" | b"__end_rodata" | b"_end")
}

/// The symbol that `NAME`, `NAME\t[MODULE]` or `NAME [MODULE]` stands for.
fn symbol(text: &[u8]) -> KernelSymbol {
    let text = String::from_utf8_lossy(text);
    let (name, module) =
        text.split_once(['\t', ' ']).map_or((&*text, None), |(name, module)| (name, Some(module)));
    let module = module.map(|module| module.trim_start_matches('[').trim_end_matches(']').into());
    // Rust code in the kernel has mangled names.
    let name = if name.starts_with("_R") { demangle(name).into() } else { name.into() };
    KernelSymbol { name, module }
}

/// The kernel shows no addresses: why, and the mend.
fn hidden() -> Error {
    let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let what = format!(
        "kernel functions have no names: the kernel hides its addresses (kernel.kptr_restrict is {})",
        if restrict.trim().is_empty() { "unknown" } else { restrict.trim() }
    );
    // With 2 nobody may see them; with 0 and 1 the capability opens them.
    if restrict.trim() == "2" {
        Error::privilege(what, "run: sysctl kernel.kptr_restrict=1")
    } else {
        Error::privilege(what, "run as root or with CAP_SYSLOG")
    }
}
