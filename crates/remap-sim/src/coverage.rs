//! What a run met: every kind of fault that can be injected, and every state that it should lead to.
//!
//! Invariant: one name per kind, the same here, in what a run prints and in `docs/faults.md`; a kind that no run meets any
//! more fails the test of fixed seeds, so that none is lost in silence.

use core::fmt;

use remap_core::engine::Command;
use remap_core::op::RequestKind;
use remap_format::Cause;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of fault, or a state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Sectors of the main device cannot be read until they are overwritten.
    MainBad = "main-bad",
    /// Sectors of the main device can neither be read nor written.
    MainDead = "main-dead",
    /// The error of a bad sector says nothing (bare EIO).
    BareError = "bare-error",
    /// A bad sector reads again by itself.
    SectorHeals = "sector-heals",
    /// A sector of a slot cannot be read until it is overwritten.
    SlotBad = "slot-bad",
    /// A sector of a slot can neither be read nor written.
    SlotDead = "slot-dead",
    /// A sector of a metadata copy goes bad.
    MetadataBad = "metadata-bad",
    /// A device fails for a while: transport.
    PathTransport = "path-transport",
    /// A device fails for a while: time-out.
    PathTimeout = "path-timeout",
    /// A device is gone for a while.
    PathGone = "path-gone",
    /// Writes to a device find no room for a while.
    NoRoom = "no-room",
    /// A device takes no writes for a while.
    ReadOnly = "read-only",
    /// An operation takes long.
    Slow = "slow",
    /// An operation gets no answer within its deadline.
    Hung = "hung",
    /// A write that was answered with a time-out lands later.
    LateWrite = "late-write",
    /// An operation is refused because a late write may still land on its range.
    LateWriteInTheWay = "late-write-in-the-way",
    /// A flush fails; nothing is lost from the cache.
    FlushFails = "flush-fails",
    /// A flush fails, and unflushed writes are gone.
    FlushDrops = "flush-drops",
    /// A flush fails, and unflushed writes read back but never reach the medium (a page cache).
    FlushDropsUnseen = "flush-drops-unseen",
    /// A client's flush fails because somebody else's did.
    FlushDebt = "flush-debt",
    /// A metadata write is acknowledged and never happens.
    MetadataWriteLost = "metadata-write-lost",
    /// A metadata write lands on another place of a copy.
    MetadataWriteMisdirected = "metadata-write-misdirected",
    /// A copy rots while the volume is in service.
    RotInService = "rot-in-service",
    /// A copy rots between two lives.
    RotBetweenLives = "rot-between-lives",
    /// Four copies of a spare rot at once.
    RotFourCopies = "rot-four-copies",
    /// A read of the metadata fails once while recovering.
    RecoveryReadFails = "recovery-read-fails",
    /// The path to a spare fails while recovering.
    RecoveryPathFails = "recovery-path-fails",
    /// The power fails.
    PowerCut = "power-cut",
    /// The power fails while the copies are being repaired.
    PowerCutInRepair = "power-cut-in-repair",
    /// Unflushed writes all reach the medium (also: the process is killed).
    CrashKeepsAll = "crash-keeps-all",
    /// None does.
    CrashDropsAll = "crash-drops-all",
    /// Only the older ones do.
    CrashDropsNewest = "crash-drops-newest",
    /// Some writes do, in any order.
    CrashReorders = "crash-reorders",
    /// Some sectors do, in any order.
    CrashTears = "crash-tears",
    /// The wall clock jumps ahead.
    ClockAhead = "clock-ahead",
    /// The wall clock jumps back.
    ClockBack = "clock-back",
    /// A request of the life before is sent again.
    Replay = "replay",
    /// A write begins while another request is under way in the same place.
    Overlap = "overlap",
    /// A client reads.
    Read = "read",
    /// A client writes.
    Write = "write",
    /// A client writes with FUA.
    WriteFua = "write-fua",
    /// A client writes zeroes.
    WriteZeroes = "write-zeroes",
    /// A client discards.
    Discard = "discard",
    /// A client flushes.
    Flush = "flush",
    /// A client's write covers only a part of a block.
    PartialWrite = "partial-write",
    /// Blocks are to move to a spare.
    CommandRemap = "command-remap",
    /// Blocks are to move before they fail.
    CommandEvacuate = "command-evacuate",
    /// Blocks are to go home.
    CommandClear = "command-clear",
    /// Entries are to be checked.
    CommandVerify = "command-verify",
    /// All copies are to be written anew.
    CommandSave = "command-save",
    /// Remapping is to be suspended.
    CommandSuspend = "command-suspend",
    /// Remapping is to go on.
    CommandResume = "command-resume",
    /// A spare is to join.
    CommandAddSpare = "command-add-spare",
    /// A spare is to leave.
    CommandRetireSpare = "command-retire-spare",
    /// A spare is to take another's place.
    CommandMigrate = "command-migrate",
    /// The volume is to be released.
    CommandRelease = "command-release",
    /// A block became pending.
    Pending = "pending",
    /// A block moved to a slot.
    Remapped = "remapped",
    /// A block moved before it failed.
    Evacuated = "evacuated",
    /// Lost sectors were overwritten or read again.
    Healed = "healed",
    /// A block moved home.
    Cleared = "cleared",
    /// A slot went bad and was given up.
    SlotRetired = "slot-retired",
    /// A read failed because a sector is lost.
    LostRead = "lost-read",
    /// A copy was fenced.
    CopyFenced = "copy-fenced",
    /// A copy fell behind and could not be fenced.
    CopyBehind = "copy-behind",
    /// Remapping was suspended.
    BreakerOpen = "breaker-open",
    /// Remapping went on.
    BreakerClosed = "breaker-closed",
    /// Metadata could not be written.
    Frozen = "frozen",
    /// Metadata could be written again.
    Thawed = "thawed",
    /// No slot or no room for an entry was left.
    Exhausted = "exhausted",
    /// A checkpoint was made.
    Checkpoint = "checkpoint",
    /// Recovery found copies that must be written anew.
    Repair = "repair",
    /// A spare joined the volume.
    SpareJoined = "spare-joined",
    /// A spare left it.
    SpareLeft = "spare-left",
    /// A superblock that is nobody's could not be erased.
    NotErased = "not-erased",
    /// The volume was released.
    Released = "released",
    /// A volume that was released was taken back.
    TakenBack = "taken-back",
    /// The table was dumped and restored between two lives.
    Restored = "restored",
    /// The generation went past its largest number.
    GenerationWraps = "generation-wraps",
}

impl Kind {
    /// The kind of a request.
    #[must_use]
    pub fn of_request(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Read => Self::Read,
            RequestKind::Write { fua: false } => Self::Write,
            RequestKind::Write { fua: true } => Self::WriteFua,
            RequestKind::WriteZeroes { .. } => Self::WriteZeroes,
            RequestKind::Discard => Self::Discard,
            RequestKind::Flush => Self::Flush,
        }
    }

    /// The kind of a command.
    #[must_use]
    pub fn of_command(command: &Command) -> Self {
        match command {
            Command::Remap(_, Cause::Predicted) => Self::CommandEvacuate,
            Command::Remap(..) => Self::CommandRemap,
            Command::Clear(_) => Self::CommandClear,
            Command::Verify { .. } => Self::CommandVerify,
            Command::Save => Self::CommandSave,
            Command::Release => Self::CommandRelease,
            Command::AddSpare { .. } => Self::CommandAddSpare,
            Command::RetireSpare { .. } => Self::CommandRetireSpare,
            Command::Suspend => Self::CommandSuspend,
            Command::Resume => Self::CommandResume,
        }
    }
}

const KINDS: usize = Kind::ALL.len();

/// How often each kind was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage([u64; KINDS]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; KINDS])
    }
}

impl Coverage {
    /// It was met once more.
    pub fn meet(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    /// How often it was met.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Adds what another run met.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// All kinds with their numbers, some to a line.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, &kind) in Kind::ALL.iter().enumerate() {
            let end = if index % 4 == 3 || index + 1 == KINDS { "\n" } else { "  " };
            write!(f, "{:>10} {:<26}{end}", self.count(kind), kind.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fault_atlas_names_every_kind() {
        let atlas = include_str!("../../../docs/faults.md");
        let missing: Vec<_> =
            Kind::ALL.iter().map(|k| k.name()).filter(|name| !atlas.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/faults.md does not say what becomes of {missing:?}");
    }
}
