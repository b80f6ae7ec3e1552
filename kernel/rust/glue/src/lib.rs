// SPDX-License-Identifier: GPL-2.0
//! A volume as a kernel drives it: plain values in and out of the engine of remap-core.
//!
//! Invariant: nothing here knows a pointer or a structure of the kernel; it runs, and is tested, in user space too. What is allocated
//! is asked for in a way that may fail.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod assemble;
pub mod call;
pub mod errno;
pub mod lookup;
pub mod shown;
pub mod spares;
pub mod target;
pub mod text;
pub mod turn;
pub mod volume;

#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[cfg(test)]
mod tests;
