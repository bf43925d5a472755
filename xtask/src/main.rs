//! hostscope's own commands.
fn main() {}
