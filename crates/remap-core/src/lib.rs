//! The engine of dm-remap: a pure state machine. Events and the time go in, device operations and events come out; there is
//! no clock, no file and no thread in it (sans-IO). It needs `core` and `alloc` only, so the same code serves user space and
//! a kernel.
//!
//! Read in this order: [`units`] and [`op`] (the words), [`table`] and [`view`] (what is where, and how readers see it),
//! [`pool`] (slots), [`recovery`] and [`elect`] (from the spares to a table), [`engine`] (the slow lane).
//!
//! # The contract
//!
//! ## C1 Nothing is acknowledged early
//! A write completes after its bytes are where the durable table says to look. A request ends when its last piece has
//! been written there, or when the commit that names the new place is durable ([`engine`], `request` and `commit`).
//!
//! ## C2 Data before map
//! Bytes on the spare, flush, then the record that names them on every copy, flush. The data flush of a batch ends before
//! its record is begun, so the table never points at bytes that are not durable.
//!
//! ## C3 Lost stays lost
//! The lost mask of an entry is set when a sector cannot be read, and cleared only by an overwrite of that sector (or when
//! the main device gives the sector after all and nothing newer was ever written: see `STALE`). A read fails for lost
//! sectors only; a partial write heals just the sectors that it covers.
//!
//! ## C4 Only the medium moves a block
//! [`op::Fault::blames_medium`]. Medium and protection errors may lead to an entry, after the sector failed alone. A
//! bare EIO must be confirmed by a good sector of the same device and is held to a budget. Any other fault opens the breaker,
//! and while it is open no error changes the table.
//!
//! ## C5 Freed late
//! A slot goes back to the [`pool`] only after the commit that stopped naming it is durable.
//!
//! ## C6 Bounded
//! [`engine::MAX_JOBS`], [`engine::MAX_REQUESTS`], [`engine::MAX_COMMANDS`], [`engine::MAX_SUSPICIONS`], the journal, the breaker's
//! window: every queue, retry and wait has a named limit. When metadata cannot be written, requests that need them fail at once.
//! What has a limit is reserved when the engine starts ([`memory`]); a refusal of the allocator is a fault, never an end.
//!
//! ## C7 Deterministic core
//! Same calls in the same order, same answers: no hash maps, no addresses, no time but the one passed in.
//!
//! ## C8 Refuse, don't guess
//! [`recovery::RecoveryError`] and [`elect::ElectionError`] list what is refused; recovery never writes.
//!
//! ## C9 Nothing is written to the main device that the client did not write
//! The engine writes to the main device for a client's write, and for [`engine::Command::Clear`].
//!
//! ## C10 Idempotent
//! Requests carry no state from one life to the next; a replayed write stores the same bytes at the place that the table
//! then names.
//!
//! ## C11 Concurrent requests cannot be lost by a move
//! A job publishes its block as moving ([`view`]), then waits for [`op::OpKind::Grace`] and for its own pieces on that block
//! before it reads or writes anything.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_macros))]

extern crate alloc;
#[cfg(any(test, loom, shuttle))]
extern crate std;

pub mod canary;
pub mod elect;
pub mod engine;
pub mod memory;
pub mod op;
pub mod pool;
pub mod recovery;
pub mod sync;
pub mod table;
pub mod units;
pub mod view;
