// SPDX-License-Identifier: GPL-2.0
//! The C interface of `kernel/module/dmr.h`.
//!
//! Invariant: a function here does nothing but turn C values into Rust values and back. What the header says about who may call it in
//! which context holds for each; pointers are valid as C says, and every length belongs to the pointer in front of it.

#![no_std]
#![allow(missing_docs, unreachable_pub, reason = "the header documents them, and C reaches them")]

extern crate alloc;

mod abi;
mod ask;
mod base;
mod driver;
mod lane;
