//! Symbol names as their authors wrote them.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions};

/// The longest mangled name that is demangled, in bytes. The time that demangling takes grows faster than the name.
const MAX_MANGLED_BYTES: usize = 4096;
/// The longest name that demangling may yield, in bytes: a few hundred mangled bytes can stand for gigabytes.
const MAX_DEMANGLED_BYTES: usize = 8192;
/// How deep a C++ name may nest, since each level takes stack. Of the 151,029 names that LLVM 22, LLVM 14 and node
/// export, 26 need more than 80, and no more of them come right beyond 96.
const MAX_DEPTH: u32 = 96;

/// The name to show for the symbol `name`.
///
/// Rust names lose their hash. C++ names lose their parameters and return type and keep their template arguments, as
/// perf and `go tool pprof` show them: a flame graph has no room for parameters, and the overloads of a function
/// belong together in it. Whoever must tell overloads apart finds the mangled name beside it. What cannot be
/// demangled within the bounds stays as it is.
#[must_use]
pub fn demangle(name: &str) -> String {
    // A version as in `read@@GLIBC_2.2.5` is part of no name; neither Rust's nor C++'s mangling uses the sign.
    let name =
        name.split_once('@').map_or(name, |(name, version)| if name.is_empty() { version } else { name });
    if name.len() > MAX_MANGLED_BYTES || !name.starts_with('_') {
        return name.to_owned();
    }
    rust(name).or_else(|| cpp(name)).unwrap_or_else(|| name.to_owned())
}

fn rust(name: &str) -> Option<String> {
    let mut text = Bounded(String::new());
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    write!(text, "{demangled:#}").ok()?;
    Some(text.0)
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") && !name.starts_with("_GLOBAL_") {
        return None;
    }
    let parse = ParseOptions::default().recursion_limit(MAX_DEPTH);
    let show = DemangleOptions::new()
        .no_params()
        .no_return_type()
        .hide_expression_literal_types()
        .recursion_limit(MAX_DEPTH);
    let symbol = cpp_demangle::Symbol::new_with_options(name.as_bytes(), &parse).ok()?;
    let mut text = Bounded(String::new());
    symbol.structured_demangle(&mut text, &show).ok()?;
    // cpp_demangle writes a comma for an argument pack that is empty: `AnalysisManager<Module, >`.
    let text = if text.0.contains(", >") { text.0.replace(", >", ">") } else { text.0 };
    (!text.is_empty()).then_some(text)
}

/// A string that refuses to grow beyond [`MAX_DEMANGLED_BYTES`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_DEMANGLED_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}
