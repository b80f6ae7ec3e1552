//! What recovery refuses (C8), each with the reason that a person can act upon; and what it takes, though it looks odd.

use remap_core::engine::{Command, CommandId, Engine, EngineConfig};
use remap_core::op::{Buffer, DeviceId, Fault, OpKind};
use remap_core::recovery::{Flaw, Recovered, RecoveryError, SpareReader, recover};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{first_homes, first_spares, plan};
use remap_format::{Cause, CopyRole, DecodeError, MainIdentity, Policy, Superblock, SuperblockFlags};

const SPARE: u64 = 1 << 20;
const NOW: Now = Now { mono_ns: 0, unix_s: 1_700_000_000 };

/// Spares in memory. A read at or behind `fails.0` bytes of device `fails.1` ends with the fault.
struct Devices<'a> {
    bytes: &'a [&'a Vec<u8>],
    fails: Option<(u64, usize, Fault)>,
}

impl SpareReader for Devices<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        if let Some((_, _, fault)) =
            self.fails.filter(|(from, device, _)| *device == spare && *from <= offset)
        {
            return Err(fault);
        }
        let at = usize::try_from(offset).expect("small");
        into.copy_from_slice(&self.bytes[spare][at..at + into.len()]);
        Ok(())
    }
}

fn read(devices: &[&Vec<u8>]) -> Result<Recovered, RecoveryError> {
    read_with(devices, None, false)
}

fn read_with(
    devices: &[&Vec<u8>],
    fails: Option<(u64, usize, Fault)>,
    released_too: bool,
) -> Result<Recovered, RecoveryError> {
    let sizes: Vec<u64> = devices.iter().map(|bytes| bytes.len() as u64).collect();
    recover(&mut Devices { bytes: devices, fails }, &sizes, released_too)
}

/// The spares of a volume on which a block moved, and the commands were carried out.
fn spares(volume: u8, count: u8, commands: &[Command]) -> Vec<Vec<u8>> {
    let sizes = vec![SPARE; count.into()];
    let shape = plan(&sizes, 4096).expect("large enough");
    let uuids: Vec<_> = (0..count).map(|n| ([volume + 1 + n; 16], SPARE)).collect();
    let superblock = Superblock {
        role: CopyRole::Copy(0),
        volume: [volume; 16],
        name: format!("volume {volume}"),
        spare_index: 0,
        spares: first_spares(&uuids, &shape, 4096),
        homes: first_homes(count.into()),
        block_shift: 12,
        policy: Policy::RemapOnly,
        flags: SuperblockFlags::default(),
        generation: 0,
        area: 1,
        entries: 0,
        area_pages: shape.area_pages,
        journal_pages: shape.journal_pages,
        created: 0,
        written: 0,
        compat: 0,
        ro_compat: 0,
        main: MainIdentity { size: 64 * 4096, logical_block: 512, ..Default::default() },
    };
    let recovered = Recovered::fresh(superblock, &[]).expect("fresh");
    let mut engine = Engine::start(recovered, EngineConfig::default(), NOW).expect("memory");
    let mut bytes = vec![vec![0; SPARE as usize]; count.into()];
    settle(&mut engine, &mut bytes);
    let remap = Command::Remap(Extent::new(Sector(8), 8).expect("a block"), Cause::Manual);
    for (id, command) in [remap].iter().chain(commands).enumerate() {
        engine.command(NOW, CommandId(id as u64), *command).expect("taken");
        settle(&mut engine, &mut bytes);
    }
    bytes
}

fn settle(engine: &mut Engine, spares: &mut [Vec<u8>]) {
    while let Some(op) = engine.poll_op() {
        if let (DeviceId::Spare(n), OpKind::Write { from: Buffer::Owned(bytes), .. }) = (op.device, &op.kind)
        {
            let at = op.extent.start().0 as usize * 512;
            spares[usize::from(n)][at..at + bytes.len()].copy_from_slice(bytes);
        }
        engine.handle_completion(NOW, op.id, Ok(()));
    }
    while engine.poll_event().is_some() {}
}

#[test]
fn spares_are_known_by_what_is_on_them() {
    let pair = spares(1, 2, &[]);
    let [a, b] = [&pair[0], &pair[1]];
    for (given, devices) in [([a, b], [0, 1]), ([b, a], [1, 0])] {
        let found = read(&given).expect("both are there");
        assert_eq!(found.devices, devices.map(Some));
        assert_eq!((found.table.counts().remapped_blocks, found.good_copies()), (1, 5));
        assert!(!found.needs_repair);
    }
    let missing = |missing| Some(RecoveryError::MissingSpare { missing, expected: 2 });
    assert_eq!(read(&[a]).err(), missing(1));
    assert_eq!(read(&[b]).err(), missing(0));
    let twice = Some(RecoveryError::DuplicateSpare { first: 1, second: 2 });
    assert_eq!(read(&[b, a, a]).err(), twice);
}

#[test]
fn what_belongs_to_another_volume_is_refused() {
    let (one, other) = (spares(1, 1, &[]), spares(7, 1, &[]));
    let mixed = |name: &str| Some(RecoveryError::MixedVolumes { spare: 1, name: name.into() });
    assert_eq!(read(&[&one[0], &other[0]]).err(), mixed("volume 7"));
    assert_eq!(read(&[&other[0], &one[0]]).err(), mixed("volume 1"));
    let blank = vec![0; SPARE as usize];
    let nothing = |spare| {
        let flaw = Flaw::Damaged(DecodeError::Magic("superblock"));
        Some(RecoveryError::NoMetadata { spare, flaw })
    };
    assert_eq!(read(&[&blank]).err(), nothing(0));
    assert_eq!(read(&[&one[0], &blank]).err(), nothing(1));
    assert_eq!(read(&[&Vec::new()]).err(), nothing(0));
}

#[test]
fn a_spare_may_have_grown_but_not_shrunk() {
    let one = &spares(1, 1, &[])[0];
    let mut grown = one.clone();
    grown.resize(SPARE as usize + 4096, 0);
    assert!(read(&[&grown]).is_ok_and(|found| found.good_copies() == 5));
    let mut shrunk = one.clone();
    shrunk.truncate(SPARE as usize - 4096);
    let expected = RecoveryError::SpareShrank { spare: 0, found: SPARE - 4096, expected: SPARE };
    assert_eq!(read(&[&shrunk]).err(), Some(expected));
}

#[test]
fn a_released_volume_is_opened_only_on_request() {
    let one = &spares(1, 1, &[Command::Release])[0];
    assert_eq!(read(&[one]).err(), Some(RecoveryError::Released { name: "volume 1".into() }));
    assert!(read_with(&[one], None, true).is_ok_and(|found| found.table.counts().entries == 1));
}

/// What cannot be read for another reason than the medium may be newer than what can.
#[test]
fn a_path_that_fails_is_no_damage() {
    let pair = spares(1, 2, &[]);
    let given = [&pair[0], &pair[1]];
    for fault in [Fault::Transport, Fault::Gone] {
        for (from, device) in [(0, 0), (0, 1), (SPARE / 2, 1), (SPARE / 2, 0)] {
            let found = read_with(&given, Some((from, device, fault)), false).err();
            assert_eq!(found, Some(RecoveryError::Unreachable { spare: device, fault }), "{from}");
        }
    }
    let starved = read_with(&given, Some((SPARE / 2, 1, Fault::NoMemory)), false).err();
    assert!(matches!(starved, Some(RecoveryError::Memory(_))));
    // A drive that does not give up on a bad sector in time: the copies before it are enough.
    for fault in [Fault::Timeout, Fault::Medium, Fault::Unknown] {
        let found = read_with(&given, Some((SPARE / 2, 1, fault)), false).expect("other copies are whole");
        assert!(found.needs_repair && found.good_copies() == 4, "{fault:?}");
        let flaws: Vec<_> = found.copies.iter().filter_map(|copy| copy.flaw).map(|(flaw, _)| flaw).collect();
        assert_eq!(flaws, [Flaw::Unreadable(fault)]);
    }
}
