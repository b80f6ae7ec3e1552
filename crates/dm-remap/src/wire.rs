//! What goes over the control socket: one JSON object per line, both ways.
//!
//! Invariant: only this module (and the dumps and reports that commands print) knows JSON; every line says its version,
//! and a line of another version is refused, not guessed at.

use anyhow::{Context as _, ensure};
use remap_format::{Cause, Entry, EntryFlags, EntryState};
use remap_runtime::{StageTimes, TraceRow};
use serde::{Deserialize, Serialize};

use crate::status_json::StatusReport;

/// Version of the protocol on the control socket.
pub(crate) const VERSION: u32 = 1;
/// Longest request in bytes, line end included.
pub(crate) const REQUEST_MAX: usize = 64 << 10;
/// Longest line of a reply in bytes.
pub(crate) const REPLY_MAX: usize = 4 << 20;
/// Longest time that requests are measured, in seconds.
pub(crate) const TRACE_SECONDS_MAX: u32 = 3600;
/// Entries in one line of a reply.
pub(crate) const PAGE: usize = 1024;

/// A line with its version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line<T> {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) body: T,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Ask {
    /// The state of the volume.
    Status,
    /// A message, as typed.
    Message { words: Vec<String> },
    /// The table.
    Entries,
    /// Times of requests: begins to measure for so many seconds (0: ends it), or only asks; answered with what was seen before.
    Trace { seconds: Option<u32> },
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub(crate) enum Reply {
    /// To [`Ask::Status`].
    Status { status: Box<StatusReport> },
    /// To [`Ask::Message`].
    Message { text: String, ok: bool },
    /// To [`Ask::Entries`], first line.
    Table { table: TableHead },
    /// To [`Ask::Entries`], all further lines; the last one says so.
    Entries { entries: Vec<WireEntry>, last: bool },
    /// To [`Ask::Trace`].
    Trace { stages: Vec<WireStage> },
    /// The request was not understood or could not be carried out.
    Error { text: String },
}

/// A stage of a kind of requests, as [`remap_runtime::StageTimes`] has it: times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireStage {
    pub(crate) kind: String,
    pub(crate) stage: String,
    pub(crate) count: u64,
    pub(crate) sum_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

impl From<TraceRow> for WireStage {
    fn from((kind, stage, times): TraceRow) -> Self {
        let StageTimes { count, sum_ns, p50_ns, p99_ns, max_ns } = times;
        let (kind, stage) = (kind.word().to_owned(), stage.word().to_owned());
        Self { kind, stage, count, sum_ns, p50_ns, p99_ns, max_ns }
    }
}

/// What the entries are about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableHead {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) generation: u64,
    /// Size of the volume in bytes.
    pub(crate) size: u64,
    /// In bytes.
    pub(crate) block_size: u32,
    pub(crate) main: String,
    /// By their numbers in the volume.
    pub(crate) spares: Vec<SpareHead>,
}

/// Where a spare is; empty for one that has left the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpareHead {
    pub(crate) path: String,
    /// First byte of the slice.
    pub(crate) start: u64,
    /// Bytes of the slice.
    pub(crate) size: u64,
}

/// An entry, as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    block: u64,
    count: u32,
    slot: u64,
    /// Hexadecimal: JSON numbers of 128 bits are not safe everywhere.
    lost: String,
    state: String,
    cause: String,
    flags: u16,
    errors: u16,
    time: u64,
}

const STATES: [(EntryState, &str); 3] =
    [(EntryState::Pending, "pending"), (EntryState::Remapped, "remapped"), (EntryState::Retired, "retired")];

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        let state = STATES.iter().find(|(state, _)| *state == entry.state).map_or("absent", |(_, word)| word);
        Self {
            block: entry.block,
            count: entry.count,
            slot: entry.slot,
            lost: format!("{:x}", entry.lost),
            state: state.to_owned(),
            cause: entry.cause.word().to_owned(),
            flags: entry.flags.0,
            errors: entry.errors,
            time: entry.time,
        }
    }
}

impl TryFrom<&WireEntry> for Entry {
    type Error = anyhow::Error;

    fn try_from(wire: &WireEntry) -> anyhow::Result<Self> {
        let state = STATES.iter().find(|(_, word)| *word == wire.state).map(|(state, _)| *state);
        let cause = Cause::ALL.into_iter().find(|cause| cause.word() == wire.cause);
        Ok(Self {
            block: wire.block,
            count: wire.count,
            slot: wire.slot,
            lost: u128::from_str_radix(&wire.lost, 16).context("the server sent a bad lost mask")?,
            state: state.with_context(|| format!("the server sent an unknown state '{}'", wire.state))?,
            cause: cause.with_context(|| format!("the server sent an unknown cause '{}'", wire.cause))?,
            flags: EntryFlags(wire.flags),
            errors: wire.errors,
            time: wire.time,
        })
    }
}

/// A line to send, line end included.
pub(crate) fn encode<T: Serialize>(body: T) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Line { version: VERSION, body })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What a line says.
///
/// # Errors
/// It is no JSON, of another version, or says something unknown.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(line: &[u8]) -> anyhow::Result<T> {
    // The version comes first: a line of another one may have any body.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(line).context("the line is no JSON object with a version")?;
    ensure!(version == VERSION, "version {version} of the control protocol is not known, only {VERSION}");
    let line: Line<T> = serde_json::from_slice(line)?;
    Ok(line.body)
}

/// JSON for people and programs: indented, with a line end.
pub(crate) fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_round_trip_and_nonsense_is_refused() {
        let trace = Ask::Trace { seconds: Some(3) };
        for ask in
            [Ask::Status, Ask::Entries, trace, Ask::Message { words: vec!["remap".into(), "7".into()] }]
        {
            let line = encode(&ask).unwrap();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(decode::<Ask>(&line).unwrap(), ask);
        }
        for bad in
            ["", "{", "[]", "{\"ask\":\"status\"}", "{\"version\":1,\"ask\":\"format\"}", "{\"version\":1}"]
        {
            assert!(decode::<Ask>(bad.as_bytes()).is_err(), "{bad}");
        }
        let newer = decode::<Ask>(b"{\"version\":2,\"ask\":\"new\"}").unwrap_err().to_string();
        assert!(newer.contains("version 2"), "{newer}");
    }

    #[test]
    fn entries_round_trip() {
        let entry = Entry {
            block: 7,
            count: 1,
            slot: 1 << 56 | 9,
            lost: u128::MAX,
            state: EntryState::Remapped,
            cause: Cause::ReadError,
            flags: EntryFlags::STALE,
            errors: 3,
            time: 1_800_000_000,
        };
        let wire = WireEntry::from(&entry);
        assert_eq!(Entry::try_from(&wire).unwrap(), entry);
        assert!(Entry::try_from(&WireEntry { cause: "magic".into(), ..wire }).is_err());
    }
}
