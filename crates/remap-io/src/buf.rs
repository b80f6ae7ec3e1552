//! Page-aligned, reference-counted buffers for direct I/O (being written).
/// A buffer.
#[derive(Debug)]
pub struct Buf;
