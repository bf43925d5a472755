//! stub
use super::elf::{BuildId, ReadAt};
use hostscope_wire::unwind::Block;
pub struct Table(Vec<Block>);
impl Table {
    pub fn blocks(&self) -> &[Block] {
        &self.0
    }
    pub fn source_bytes(&self) -> u64 {
        0
    }
}
#[derive(Debug)]
pub enum UnwindError {
    NoUnwindInformation,
}
impl std::fmt::Display for UnwindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("none")
    }
}
pub fn compile(_: &impl ReadAt) -> Result<Table, UnwindError> {
    Err(UnwindError::NoUnwindInformation)
}
pub struct TableCache;
impl TableCache {
    pub fn open(_: &std::path::Path) -> std::io::Result<Self> {
        Err(std::io::Error::other("stub"))
    }
    pub fn get(&mut self, _: &BuildId) -> Option<Result<Table, UnwindError>> {
        None
    }
    pub fn put(&mut self, _: &BuildId, _: &Result<Table, UnwindError>) {}
}
