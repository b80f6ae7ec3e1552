//! Memory that is had before it is needed, or asked for in a way that may fail: a kernel must not die of an allocation.
//!
//! Invariant: no other module of this crate calls a function that allocates and cannot fail (the lints in `lib.rs` see to
//! that). What is bounded is reserved when the engine starts; what is large and short-lived (pages on their way to a copy) is
//! asked for when it is needed, and a refusal is a fault like any other: the attempt fails, and is made again later.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The allocator refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory")]
pub struct NoMemory;

/// An empty list with room for `room` values.
pub(crate) fn list<T>(room: usize) -> Result<Vec<T>, NoMemory> {
    let mut list = Vec::new();
    list.try_reserve_exact(room).map_err(|_| NoMemory)?;
    Ok(list)
}

/// An empty queue with room for `room` values.
pub(crate) fn queue<T>(room: usize) -> Result<VecDeque<T>, NoMemory> {
    let mut queue = VecDeque::new();
    queue.try_reserve_exact(room).map_err(|_| NoMemory)?;
    Ok(queue)
}

/// A list of the same values.
pub(crate) fn copy<T: Copy>(values: &[T]) -> Result<Vec<T>, NoMemory> {
    let mut copy = list(values.len())?;
    extend(&mut copy, values.len(), values.iter().copied());
    Ok(copy)
}

/// `len` zero bytes.
pub(crate) fn zeroes(len: usize) -> Result<Vec<u8>, NoMemory> {
    let mut bytes = list(len)?;
    resize(&mut bytes, len, 0);
    Ok(bytes)
}

/// Values on the heap. (An array, because that is what a list can become without allocating again.)
pub(crate) fn array<T, const N: usize>(make: impl FnMut() -> T) -> Result<Box<[T; N]>, NoMemory> {
    let mut values = list(N)?;
    extend(&mut values, N, core::iter::repeat_with(make));
    values.into_boxed_slice().try_into().map_err(|_| NoMemory)
}

/// A value with several owners. This is the one place that can still fail without saying so: the standard library knows no way to
/// ask. It is reached once when a volume is assembled, and asks just before for memory of the same size.
pub(crate) fn shared<T>(value: T) -> Result<Arc<T>, NoMemory> {
    // What an `Arc` adds: two counters.
    drop(list::<(usize, usize, T)>(1)?);
    #[expect(clippy::disallowed_methods, reason = "see above")]
    Ok(Arc::new(value))
}

/// Puts a value at the end of a list, asking for room if there is none.
pub(crate) fn try_push<T>(list: &mut Vec<T>, value: T) -> Result<(), NoMemory> {
    list.try_reserve(1).map_err(|_| NoMemory)?;
    push(list, value);
    Ok(())
}

/// Puts a value at the end of a list that has room for it.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) {
    assert!(list.len() < list.capacity(), "room was reserved");
    #[expect(clippy::disallowed_methods, reason = "there is room")]
    list.push(value);
}

/// Puts a value at the end of a queue that has room for it.
pub(crate) fn push_back<T>(queue: &mut VecDeque<T>, value: T) {
    assert!(queue.len() < queue.capacity(), "room was reserved");
    #[expect(clippy::disallowed_methods, reason = "there is room")]
    queue.push_back(value);
}

/// Puts values at the end of a list that has room for `most` of them; the others are left.
pub(crate) fn extend<T>(list: &mut Vec<T>, most: usize, values: impl Iterator<Item = T>) {
    assert!(list.capacity() - list.len() >= most, "room was reserved");
    #[expect(clippy::disallowed_methods, reason = "there is room")]
    list.extend(values.take(most));
}

/// Makes a list that has room for them `len` values long.
pub(crate) fn resize<T: Clone>(list: &mut Vec<T>, len: usize, value: T) {
    assert!(list.capacity() >= len, "room was reserved");
    #[expect(clippy::disallowed_methods, reason = "there is room")]
    list.resize(len, value);
}
