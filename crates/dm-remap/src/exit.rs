//! Exit codes: the contract with scripts, in one table.
//!
//! Invariant: every way out of the program ends with a code of [`Exit`] (or, for `status --exit-code`, of its own table),
//! and a typed error further down decides it, never a text.

use std::process::ExitCode;

use remap_core::recovery::{Flaw, RecoveryError};
use remap_format::DecodeError;
use remap_io::mapper::MapperError;
use remap_nbd::{BindError, ClientError};
use remap_runtime::{AdoptError, RewriteError};

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Anything without a code of its own.
    Failure = 1,
    /// The command line was not understood.
    Usage = 2,
    /// Not allowed.
    Permission = 3,
    /// Not the device that it should be, or one that will not do.
    Mismatch = 4,
    /// In use.
    Busy = 5,
    /// Damaged metadata.
    Metadata = 6,
    /// Nothing there.
    NotFound = 7,
    /// The work is done, but sectors were met that no device holds.
    Lost = 8,
    /// `stress`: a byte was not what had been written, or an error was met that nothing explains.
    Wrong = 9,
}

/// The contract, as `--help` prints it.
pub(crate) const TABLE: [(Exit, &str); 10] = [
    (Exit::Done, "done"),
    (Exit::Failure, "failure without a code of its own"),
    (Exit::Usage, "the command line was not understood"),
    (Exit::Permission, "permission denied, or the device is read-only"),
    (Exit::Mismatch, "wrong device: not the one adopted, foreign, too small, or not suitable"),
    (Exit::Busy, "in use by somebody else"),
    (Exit::Metadata, "metadata damaged, or written by a newer dm-remap"),
    (Exit::NotFound, "no such device, file, volume or program"),
    (Exit::Lost, "done, but sectors were met whose contents no device holds"),
    (Exit::Wrong, "stress: a wrong byte, or an error that no drill explains"),
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The end of `--help`.
pub(crate) fn help_text() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in TABLE {
        text += &format!("  {}  {meaning}\n", exit as u8);
    }
    text.push_str(
        "  'status --exit-code' has its own: 0 healthy, 1 degraded, 2 lost sectors, exhausted or frozen, 4 unknown",
    );
    text
}

/// An error of the command line program itself, with its code. The text says what was wrong, why, and what would do.
#[derive(Debug)]
pub(crate) struct Refusal {
    exit: Exit,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// An error with a code.
pub(crate) fn refusal(exit: Exit, text: impl Into<String>) -> anyhow::Error {
    Refusal { exit, text: text.into() }.into()
}

/// The code for an error: the first cause in its chain that has one decides.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of_cause).unwrap_or(Exit::Failure)
}

fn exit_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(refusal) = cause.downcast_ref::<Refusal>() {
        return Some(refusal.exit);
    }
    if let Some(error) = cause.downcast_ref::<remap_io::OpenError>() {
        return Some(of_device(error));
    }
    if let Some(error) = cause.downcast_ref::<MapperError>() {
        return Some(of_mapper(error));
    }
    if let Some(error) = cause.downcast_ref::<RecoveryError>() {
        return Some(of_recovery(error));
    }
    if let Some(error) = cause.downcast_ref::<AdoptError>() {
        return Some(of_adopt(error));
    }
    if let Some(error) = cause.downcast_ref::<RewriteError>() {
        return Some(match error {
            RewriteError::Device(_) => Exit::Metadata,
            _ => Exit::Failure,
        });
    }
    if let Some(error) = cause.downcast_ref::<remap_runtime::OpenError>() {
        return Some(of_volume(error));
    }
    if let Some(error) = cause.downcast_ref::<BindError>() {
        return Some(of_bind(error));
    }
    if let Some(ClientError::Io(error)) = cause.downcast_ref::<ClientError>() {
        return of_system(error);
    }
    cause.downcast_ref::<std::io::Error>().and_then(of_system)
}

fn of_device(error: &remap_io::OpenError) -> Exit {
    use remap_io::OpenError;
    match error {
        OpenError::NotFound { .. } => Exit::NotFound,
        OpenError::NoAccess { .. } | OpenError::ReadOnly { .. } => Exit::Permission,
        OpenError::InUse { .. } => Exit::Busy,
        OpenError::WrongKind { .. }
        | OpenError::NotDirect { .. }
        | OpenError::Slice { .. }
        | OpenError::TooSmall { .. } => Exit::Mismatch,
        OpenError::Alloc(_) => Exit::Failure,
        OpenError::System { source, .. } => of_system(source).unwrap_or(Exit::Failure),
    }
}

fn of_mapper(error: &MapperError) -> Exit {
    match error {
        MapperError::NoControl | MapperError::NotFound(_) => Exit::NotFound,
        MapperError::NoAccess => Exit::Permission,
        MapperError::Name { .. } => Exit::Usage,
        MapperError::Exists(_) | MapperError::Busy { .. } => Exit::Busy,
        MapperError::Refused { source, .. } => of_system(source).unwrap_or(Exit::Failure),
        _ => Exit::Failure,
    }
}

pub(crate) fn of_recovery(error: &RecoveryError) -> Exit {
    match error {
        RecoveryError::NoMetadata {
            flaw: Flaw::Damaged(DecodeError::Version { .. } | DecodeError::Incompatible { .. }),
            ..
        } => Exit::Metadata,
        RecoveryError::NoMetadata { flaw: Flaw::Damaged(DecodeError::Magic(_)), .. }
        | RecoveryError::MixedVolumes { .. }
        | RecoveryError::DuplicateSpare { .. }
        | RecoveryError::MissingSpare { .. }
        | RecoveryError::NotAMember { .. }
        | RecoveryError::SpareShrank { .. }
        | RecoveryError::Released { .. } => Exit::Mismatch,
        RecoveryError::Memory(_) | RecoveryError::Unreachable { .. } => Exit::Failure,
        _ => Exit::Metadata,
    }
}

fn of_adopt(error: &AdoptError) -> Exit {
    match error {
        AdoptError::InUse { .. } => Exit::Busy,
        AdoptError::ReadOnly(_) => Exit::Permission,
        AdoptError::Metadata(error) => of_recovery(error),
        AdoptError::Write(RewriteError::Device(_)) => Exit::Metadata,
        AdoptError::Write(_) => Exit::Failure,
        _ => Exit::Mismatch,
    }
}

fn of_volume(error: &remap_runtime::OpenError) -> Exit {
    use remap_runtime::OpenError;
    match error {
        OpenError::Recovery(error) => of_recovery(error),
        OpenError::WrongMain { .. } | OpenError::MainShrank { .. } => Exit::Mismatch,
        OpenError::Metadata(_) | OpenError::Features { .. } => Exit::Metadata,
        OpenError::ReadOnly(_) => Exit::Permission,
        OpenError::System(error) => of_system(error).unwrap_or(Exit::Failure),
        _ => Exit::Failure,
    }
}

fn of_bind(error: &BindError) -> Exit {
    match error {
        BindError::InUse(_) => Exit::Busy,
        BindError::Nowhere | BindError::BadPath(_) | BindError::NotLoopback(_) | BindError::NotASocket(_) => {
            Exit::Usage
        }
        BindError::NotListening => Exit::Failure,
        BindError::System { source, .. } => of_system(source).unwrap_or(Exit::Failure),
    }
}

fn of_system(error: &std::io::Error) -> Option<Exit> {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Some(Exit::NotFound),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(Exit::Permission),
        ErrorKind::AddrInUse | ErrorKind::ResourceBusy => Some(Exit::Busy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_table_has_every_code_once_in_order() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| *exit as u8).collect();
        assert_eq!(codes, (0..=9).collect::<Vec<u8>>());
        assert!(
            TABLE.iter().all(|(exit, meaning)| help_text().contains(&format!("{}  {meaning}", *exit as u8)))
        );
    }

    #[test]
    fn the_first_typed_cause_decides() {
        let error = refusal(Exit::Busy, "x").context("outer");
        assert_eq!(exit_of(&error), Exit::Busy);
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(exit_of(&Err::<(), _>(missing).context("reading").unwrap_err()), Exit::NotFound);
        assert_eq!(exit_of(&anyhow::anyhow!("no type")), Exit::Failure);
        let released = RecoveryError::Released { name: "v".into() };
        assert_eq!(exit_of(&remap_runtime::OpenError::Recovery(released).into()), Exit::Mismatch);
    }
}
