//! A volume on files, through the whole of runtime, core and I/O: what clients see when the medium fails.

mod common;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use common::{Client, Lab, MAIN_SIZE, extent, pattern};
use remap_core::engine::{Command, VolumeState};
use remap_core::op::RequestKind;
use remap_core::recovery::RecoveryError;
use remap_format::{Cause, Policy, Superblock, SuperblockFlags};
use remap_io::Drill;
use remap_runtime::front::{BlockState, ByteRange, Export, FrontError};
use remap_runtime::{OpenError, OpenOptions, Volume, examine, lost_entries, rewrite};

fn bad(ranges: &[(u64, u64)]) -> Result<(), FrontError> {
    let bad = ranges.iter().map(|&(start, len)| ByteRange { start: start * 512, len: len * 512 }).collect();
    Err(FrontError::Io { bad })
}

#[test]
fn a_healthy_volume_is_its_main_device() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    let mut client = Client::of(&volume);
    client.assert_original(0, MAIN_SIZE / 512);
    let new = [7u8; 8192];
    assert_eq!(client.write(101, &new), Ok(()));
    assert_eq!(client.read(101, 16).1, new);
    assert_eq!(client.run(RequestKind::Flush, 0, 0, None).0, Ok(()));
    let zeroes = RequestKind::WriteZeroes { fua: true, may_unmap: true };
    assert_eq!(client.run(zeroes, 103, 4, None).0, Ok(()));
    assert_eq!(client.read(103, 4).1, [0; 2048]);
    assert_eq!(client.run(RequestKind::Discard, 4000, 64, None).0, Ok(()));
    assert_eq!(volume.status().expect("status").state, VolumeState::Healthy);
    drop(client);
    volume.stop();
    let mut main = File::open(lab.main()).expect("main");
    main.seek(SeekFrom::Start(101 * 512)).expect("seek");
    let mut bytes = [0; 1024];
    main.read_exact(&mut bytes).expect("read");
    assert_eq!(bytes, [7; 1024], "nothing moved: the bytes are on the main device");
}

fn lost_until_overwritten(policy: Policy, drill: &str) {
    let lab = Lab::make(policy, 1);
    let volume = lab.serve(drill);
    let mut client = Client::of(&volume);
    // Sectors 1003 and 1004 are bad; a larger read gives everything else.
    let (result, bytes) = client.read(1000, 16);
    assert_eq!(result, bad(&[(1003, 2)]));
    for n in (1000..1016).filter(|n| !(1003..1005).contains(n)) {
        let at = (n - 1000) as usize * 512;
        assert_eq!(bytes[at..at + 512], pattern(n), "sector {n}");
    }
    // Neighbours can be had alone, the bad ones cannot.
    client.assert_original(1002, 1);
    assert_eq!(client.read(1003, 1).0, bad(&[(1003, 1)]));
    // A write that covers one of the two heals that one.
    assert_eq!(client.write(1003, &[9; 512]), Ok(()));
    assert_eq!(client.read(1003, 1), (Ok(()), vec![9; 512]));
    assert_eq!(client.read(1000, 8).0, bad(&[(1004, 1)]));
    drop(client);
    volume.stop();
    drop(volume);

    // The same after a restart.
    let volume = lab.serve(drill);
    let mut client = Client::of(&volume);
    assert_eq!(client.read(1003, 1), (Ok(()), vec![9; 512]));
    assert_eq!(client.read(1000, 8).0, bad(&[(1004, 1)]));
    assert_eq!(client.write(1000, &[3; 4096]), Ok(()));
    assert_eq!(client.read(1000, 8), (Ok(()), vec![3; 4096]));
    client.assert_original(1008, 8);
    let status = volume.status().expect("status");
    assert_eq!(status.counts.lost_sectors, 0);
    drop(client);
    volume.stop();
}

#[test]
fn a_lost_sector_is_an_error_until_it_is_overwritten() {
    for policy in [Policy::RewriteThenRemap, Policy::RemapOnly] {
        lost_until_overwritten(policy, "bad=sectors:1003-1004,errno=ENODATA");
        lost_until_overwritten(policy, "bad=sectors:1003-1004,errno=EIO");
    }
}

#[test]
fn a_drive_that_reallocates_on_write_needs_no_slot() {
    let lab = Lab::make(Policy::RewriteThenRemap, 1);
    let volume = lab.serve("bad=sectors:1003-1004,errno=ENODATA,heal");
    let mut client = Client::of(&volume);
    assert_eq!(client.read(1003, 1).0, bad(&[(1003, 1)]));
    assert_eq!(client.write(1003, &[9; 1024]), Ok(()));
    assert_eq!(client.read(1003, 2), (Ok(()), vec![9; 1024]));
    let status = volume.status().expect("status");
    assert_eq!((status.counts.entries, status.slots.free), (0, status.slots.total));
    drop(client);
    volume.stop();
}

#[test]
fn a_failed_write_is_invisible() {
    for (policy, errno) in [(Policy::RewriteThenRemap, "EIO"), (Policy::RemapOnly, "ENODATA")] {
        let lab = Lab::make(policy, 2);
        let volume = lab.serve(&format!("bad=sectors:2000-2100,errno={errno}"));
        let mut client = Client::of(&volume);
        let fresh: Vec<u8> = (0..256 * 512).map(|i| (i / 512) as u8).collect();
        assert_eq!(client.write(1900, &fresh), Ok(()));
        assert_eq!(client.read(1900, 256), (Ok(()), fresh));
        let status = volume.status().expect("status");
        assert_eq!(status.counts.remapped_blocks, 13, "blocks 250 to 262 hold the bad sectors");
        assert_eq!(status.state, VolumeState::Degraded);
        let states = volume.block_status(1900 * 512, 256 * 512, 100);
        assert_eq!(states.iter().map(|s| s.len).sum::<u64>(), 256 * 512);
        assert_eq!(states[1].state, BlockState::Remapped);
        drop(client);
        volume.stop();
    }
}

#[test]
fn transport_errors_create_no_entry() {
    for errno in ["ENOLINK", "ETIMEDOUT", "ENODEV"] {
        let lab = Lab::make(Policy::RemapOnly, 1);
        let volume = lab.serve(&format!("bad=sectors:0-8191,errno={errno}"));
        let mut client = Client::of(&volume);
        for start in [0, 100, 4000] {
            assert!(client.read(start, 8).0.is_err());
            assert!(client.write(start, &[1; 4096]).is_err());
        }
        let status = volume.status().expect("status");
        assert_eq!(status.counts.entries, 0, "{errno}");
        assert_eq!(status.state, VolumeState::Frozen, "{errno}: remapping is suspended");
        drop(client);
        volume.stop();
    }
}

#[test]
fn a_device_that_fails_everywhere_with_a_bare_eio_creates_no_entry() {
    let lab = Lab::make(Policy::RemapOnly, 1);
    let volume = lab.serve("bad=sectors:0-8191,errno=EIO");
    let mut client = Client::of(&volume);
    for start in [0, 100, 4000] {
        assert!(client.read(start, 8).0.is_err());
        assert!(client.write(start, &[1; 4096]).is_err());
    }
    assert_eq!(volume.status().expect("status").counts.entries, 0);
    drop(client);
    volume.stop();
}

#[test]
fn remap_verify_and_clear_by_command() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    let mut client = Client::of(&volume);
    let done = volume.command(Command::Remap(extent(800, 80), Cause::Manual)).expect("remap");
    assert_eq!((done.blocks, done.done, done.failed), (10, 10, 0));
    client.assert_original(790, 100);
    assert_eq!(client.write(804, &[5; 2048]), Ok(()));
    assert!(volume.status().expect("status").lanes.remapped > 0);
    let again = volume.command(Command::Remap(extent(800, 8), Cause::Manual)).expect("remap");
    assert_eq!(again.already, 1);
    let checked = volume.command(Command::Verify { extent: extent(0, 8192), all: true }).expect("verify");
    assert_eq!((checked.blocks, checked.failed), (1024, 0));
    let cleared = volume.command(Command::Clear(extent(0, 8192))).expect("clear");
    assert_eq!((cleared.done, cleared.failed), (10, 0));
    assert_eq!(client.read(804, 4), (Ok(()), vec![5; 2048]));
    client.assert_original(808, 80);
    let status = volume.status().expect("status");
    assert_eq!((status.counts.entries, status.slots.free), (0, status.slots.total));
    drop(client);
    volume.stop();
}

#[test]
fn damaged_copies_are_repaired_and_five_are_refused() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    volume.command(Command::Remap(extent(800, 8), Cause::Manual)).expect("remap");
    volume.stop();
    drop(volume);
    let places = common::copy_places(&[2 << 20]);
    for damaged in 1..=5 {
        let before = std::fs::read(lab.spare(0)).expect("spare");
        let mut bytes = before.clone();
        for place in places.iter().take(damaged) {
            bytes[place.start as usize..place.start as usize + 16384].fill(0x55);
        }
        std::fs::write(lab.spare(0), &bytes).expect("spare");
        let opened = Volume::open(lab.main_device(), lab.spares(1), OpenOptions::default());
        if damaged == 5 {
            assert!(opened.is_err());
            assert_eq!(std::fs::read(lab.spare(0)).expect("spare"), bytes, "refused: nothing is written");
            return;
        }
        let (volume, report) = opened.expect("open");
        assert!(report.repaired);
        assert_eq!(report.copies.iter().filter(|c| c.flaw.is_some()).count(), damaged);
        let status = volume.status().expect("status");
        assert_eq!((status.counts.remapped_blocks, status.copies_in_step), (1, [true; 5]));
        volume.stop();
    }
}

#[test]
fn the_wrong_main_device_is_refused() {
    let lab = Lab::make(Policy::default(), 1);
    File::options().write(true).open(lab.main()).and_then(|f| f.set_len(MAIN_SIZE / 2)).expect("shrink");
    let error = lab.serve_with("", OpenOptions::default()).map(|_| ()).expect_err("shrank");
    assert!(matches!(error, OpenError::MainShrank { .. }), "{error}");
}

#[test]
fn a_full_spare_refuses_honestly_and_everything_else_goes_on() {
    let lab = Lab::make(Policy::RemapOnly, 1);
    let volume = lab.serve("bad=sectors:0-8000,errno=ENODATA");
    let mut client = Client::of(&volume);
    let mut refused = 0;
    for block in 0..1000 {
        match client.write(block * 8, &[block as u8; 4096]) {
            Ok(()) => assert_eq!(client.read(block * 8, 8), (Ok(()), vec![block as u8; 4096])),
            Err(error) => {
                assert_eq!(error, FrontError::NoSpace);
                refused += 1;
            }
        }
    }
    let status = volume.status().expect("status");
    assert!(refused > 0 && status.state == VolumeState::Exhausted, "{refused} {status:?}");
    assert_eq!(client.read(0, 8), (Ok(()), vec![0; 4096]));
    client.assert_original(8008, 8);
    drop(client);
    volume.stop();
}

#[test]
fn a_spare_whose_copies_are_all_fenced_is_still_known() {
    let lab = Lab::make(Policy::default(), 2);
    let volume = lab.serve("");
    volume.command(Command::Remap(extent(800, 8), Cause::Manual)).expect("remap");
    volume.stop();
    drop(volume);
    let mut bytes = std::fs::read(lab.spare(1)).expect("spare");
    for place in common::copy_places(&[2 << 20; 2]).iter().filter(|p| p.spare == 1) {
        let start = place.start as usize;
        let pages = [0, 4096].map(|page| start + page..start + page + 4096);
        let found = pages
            .iter()
            .find_map(|page| Superblock::decode(&bytes[page.clone()]).ok())
            .expect("a superblock");
        let fenced = Superblock { flags: SuperblockFlags::FENCED, ..found };
        pages.into_iter().for_each(|page| fenced.encode(&mut bytes[page]));
    }
    std::fs::write(lab.spare(1), &bytes).expect("spare");
    let (volume, report) = Volume::open(lab.main_device(), lab.spares(2), OpenOptions::default())
        .expect("three copies are whole");
    assert!(report.repaired);
    let status = volume.status().expect("status");
    assert_eq!((status.counts.remapped_blocks, status.copies_in_step), (1, [true; 5]));
    volume.stop();
}

#[test]
fn a_spare_behind_a_bad_cable_is_not_recovered_from() {
    let lab = Lab::make(Policy::default(), 1);
    let before = std::fs::read(lab.spare(0)).expect("spare");
    let sector = common::copy_places(&[2 << 20])[1].start / 512;
    for (errno, refused) in [("ENOLINK", true), ("ENODEV", true), ("ENODATA", false)] {
        let drill =
            Arc::new(Drill::parse(&format!("bad=sectors:{sector},errno={errno},on=read")).expect("drill"));
        let spares = lab.spares(1).into_iter().map(|s| s.with_drill(Arc::clone(&drill))).collect();
        let opened = Volume::open(lab.main_device(), spares, OpenOptions::default()).map(|_| ());
        assert_eq!(
            matches!(opened, Err(OpenError::Recovery(RecoveryError::Unreachable { .. }))),
            refused,
            "{errno}"
        );
        assert_eq!(opened.is_ok(), !refused, "{errno}");
        assert!(
            !refused || std::fs::read(lab.spare(0)).expect("spare") == before,
            "refused: nothing is written"
        );
    }
}

#[test]
fn an_edited_table_that_cannot_be_read_is_not_replaced_by_the_one_before_the_edit() {
    let lab = Lab::make(Policy::default(), 1);
    let spares = lab.spares(1);
    let mut recovered = examine(&spares, false).expect("examine");
    for entry in lost_entries(&[extent(800, 8)], MAIN_SIZE, 4096, 0).expect("entries") {
        recovered.table.apply(&entry).expect("memory");
    }
    rewrite(&spares, recovered).expect("rewrite");
    drop(spares);
    let mut bytes = std::fs::read(lab.spare(0)).expect("spare");
    bytes.chunks_mut(4096).filter(|page| page.starts_with(b"CKPT")).for_each(|page| page.fill(0x55));
    std::fs::write(lab.spare(0), &bytes).expect("spare");
    let error =
        lab.serve_with("", OpenOptions::default()).map(|_| ()).expect_err("what was imported is gone");
    assert!(matches!(error, OpenError::Recovery(RecoveryError::TableLost { .. })), "{error}");
}
