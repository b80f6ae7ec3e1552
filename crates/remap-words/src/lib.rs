//! The words of dm-remap: table lines, messages and their answers, status lines. The same in user space and in a kernel.
//!
//! Invariant: nothing here allocates or fails but for the words that it was given: what is asked for comes out as a value or as an
//! error whose text says what would do; what is told goes into a [`core::fmt::Write`], whole or cut where its room ends.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod figures;
pub mod message;
pub mod notice;
pub mod sectors;
pub mod status;
pub mod table;
