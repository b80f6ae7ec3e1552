//! Bytes received and not yet understood.
//!
//! Invariant: the capacity is above the longest message that must be whole before it is handled (an option of 64 KiB
//! with its head), so there is always room when a message is incomplete.

/// Capacity in bytes: many small requests, or the start of large ones, in one system call.
const CAPACITY: usize = 128 << 10;
/// Bytes received at once between long payloads.
const FEW: usize = 4096;

/// A flat buffer with a consumed front.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { bytes: vec![0; CAPACITY], start: 0, end: 0 }
    }
}

impl Input {
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where to receive to. The unread bytes move to the front first. With `few` it is short: what comes is the head of a request with
    /// a long payload, which is better received where it belongs than copied there.
    pub(super) fn room(&mut self, few: bool) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let until = if few && self.end < FEW { FEW } else { self.bytes.len() };
        &mut self.bytes[self.end..until]
    }

    /// `len` bytes were received into [`Self::room`].
    pub(super) fn received(&mut self, len: usize) {
        self.end += len;
        debug_assert!(self.end <= self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_bytes_survive_compaction() {
        let mut input = Input::default();
        input.room(false)[..5].copy_from_slice(b"abcde");
        input.received(5);
        input.consume(3);
        assert_eq!(input.room(false).len(), CAPACITY - 2);
        assert_eq!(input.unread(), b"de");
        input.consume(2);
        assert!(input.unread().is_empty());
        assert_eq!(input.room(false).len(), CAPACITY);
    }

    #[test]
    fn between_long_payloads_little_is_received_but_there_is_always_room() {
        let mut input = Input::default();
        assert_eq!(input.room(true).len(), FEW);
        input.received(FEW - 1);
        assert_eq!(input.room(true).len(), 1);
        input.received(1);
        assert_eq!(input.room(true).len(), CAPACITY - FEW);
    }
}
