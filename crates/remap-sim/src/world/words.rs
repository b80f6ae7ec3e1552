//! Words for the transcript, those of the design.
//!
//! Invariant: nothing here changes anything; a run with words is the same run.

use remap_core::op::{Buffer, DeviceId, Fault, Op, OpId, OpKind};

use super::devices::{Who, Work};

/// The engine's operation, as it is begun.
pub(super) fn operation(op: &Op) -> String {
    let device = match op.device {
        DeviceId::Main => "main".to_owned(),
        DeviceId::Spare(n) => format!("spare {n}"),
    };
    let (verb, with) = match &op.kind {
        OpKind::Read(into) => ("read", format!("into {}", buffer(into))),
        OpKind::Write { from, fua } => (if *fua { "write fua" } else { "write" }, buffer(from)),
        OpKind::WriteZeroes { .. } => ("zero", String::new()),
        OpKind::Discard => ("discard", String::new()),
        OpKind::Flush => return format!("op {:<5} flush     {device}", number(op.id)),
        OpKind::Grace => ("grace", String::new()),
    };
    format!("op {:<5} {verb:<9} {device:<7} {} {with}", number(op.id), op.extent)
}

/// The engine counts its operations; the rest of the id is its own affair.
pub(super) fn number(id: OpId) -> u64 {
    id.0 >> 16
}

fn buffer(buffer: &Buffer) -> String {
    match buffer {
        Buffer::Request { id, offset } => format!("part {} +{}", id.0, offset / 512),
        Buffer::Bounce { index, .. } => format!("bounce buffer {index}"),
        Buffer::Owned(bytes) => match bytes.first_chunk::<4>() {
            Some(b"JRNL") => "record".to_owned(),
            Some(b"CKPT") => "checkpoint pages".to_owned(),
            _ => "superblock".to_owned(),
        },
    }
}

/// Who waits for an operation.
pub(super) fn waiting(who: Who) -> String {
    match who {
        Who::Engine(op) => format!("op {}", number(op)),
        Who::Part(part) => format!("part {part}"),
    }
}

pub(super) fn work(work: &Work) -> &'static str {
    match work {
        Work::Read(_) => "read",
        Work::Write { fua: true, .. } => "write fua",
        Work::Write { .. } => "write",
        Work::Flush { .. } => "flush",
        Work::Discard => "discard",
    }
}

/// How something ended.
pub(super) fn ended(result: Result<(), Fault>) -> String {
    result.map_or_else(|fault| format!("failed: {fault:?}"), |()| "done".to_owned())
}
