//! What is being watched: processes, the files they run, and what the kernel side must know of them.

pub mod elf;
