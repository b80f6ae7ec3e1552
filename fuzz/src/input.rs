//! Bytes to choices.
//!
//! Invariant: every choice takes a fixed number of bytes and reads zeroes behind the end, so that a mutation of one byte
//! changes one choice and leaves the others where they are.

/// Reads choices from the front of an input.
pub struct Input<'a> {
    left: &'a [u8],
}

impl<'a> Input<'a> {
    /// From the first byte on.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.left
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.left.split_at(len.min(self.left.len()));
        self.left = rest;
        front
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(self.bytes(N)) {
            *to = *from;
        }
        out
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `end` (which is not 0), from one byte.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end
    }
}
