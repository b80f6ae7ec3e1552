//! The engine of dm-remap (being written).
#![no_std]

extern crate alloc;

pub mod op;
pub mod units;
