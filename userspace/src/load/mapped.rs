//! A map's elements as memory of ours: reading and writing them costs no system call.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// An array map of the kernel as memory of ours, while the handle lives.
pub(super) struct Mapped<T> {
    memory: NonNull<T>,
    len: usize,
    stride: usize,
}

// SAFETY: the memory belongs to this value alone on our side; the kernel only reads it, or writes whole aligned words
// that are read as atomics.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps `len` elements that lie `stride` bytes apart: the size of `T`, or that rounded up to 8 bytes.
    pub(super) fn new(map: BorrowedFd<'_>, len: usize, stride: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        debug_assert!(stride >= size_of::<T>());
        let bytes = (len * stride).max(1);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)?
        };
        let memory =
            NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        Ok(Self { memory, len, stride })
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        // SAFETY: within the mapping, aligned to 8 bytes; `T` is an atomic or is not written by the kernel.
        (index < self.len).then(|| unsafe { &*self.memory.as_ptr().byte_add(index * self.stride) })
    }
}

impl<T: Copy> Mapped<T> {
    pub(super) fn copy_from(&mut self, from: &[T]) {
        self.write(0, from);
    }

    /// Writes side by side from `first` on; what does not fit is left out, which callers see to.
    pub(super) fn write(&mut self, first: usize, from: &[T]) {
        debug_assert_eq!(self.stride, size_of::<T>());
        let count = from.len().min(self.len.saturating_sub(first));
        // SAFETY: `count` elements from `first` on lie within the mapping, and both sides do not overlap.
        unsafe { self.memory.as_ptr().add(first).copy_from_nonoverlapping(from.as_ptr(), count) };
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing borrows any more.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr().cast(), (self.len * self.stride).max(1)) };
    }
}
