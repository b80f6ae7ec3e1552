//! The engine of dm-remap (being written).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod elect;
pub mod engine;
pub mod op;
pub mod pool;
pub mod recovery;
pub mod table;
pub mod units;
pub mod view;
