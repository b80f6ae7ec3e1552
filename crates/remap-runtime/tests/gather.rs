//! Reads over many blocks that lie side by side on a spare.

mod common;

use std::sync::Arc;

use common::{Client, Lab, extent, open, pattern};
use remap_core::engine::Command;
use remap_format::{Cause, Policy};
use remap_io::Drill;
use remap_runtime::front::{ByteRange, FrontError};
use remap_runtime::{OpenOptions, Volume};

/// Every second block of 800..960 is moved, in order, then two more that begin another run.
fn moved(lab: &Lab) {
    let volume = lab.serve("");
    for block in (100..120).step_by(2).chain([121, 103]) {
        volume.command(Command::Remap(extent(block * 8, 8), Cause::Manual)).expect("remap");
    }
    volume.stop();
}

/// The sector of the spare that holds this sector of the volume.
fn on_spare(lab: &Lab, sector: u64) -> u64 {
    let bytes = std::fs::read(lab.spare(0)).expect("spare");
    let wanted = pattern(sector);
    bytes.chunks(512).position(|chunk| chunk == wanted).expect("it was moved") as u64
}

fn serve(lab: &Lab, drill: &str) -> Volume {
    let drill = Arc::new(Drill::parse(drill).expect("drill"));
    let spare = open(&lab.spare(0)).with_drill(drill);
    Volume::open(lab.main_device(), vec![spare], OpenOptions::default()).expect("open").0
}

#[test]
fn bytes_come_from_where_they_are() {
    let lab = Lab::make(Policy::default(), 1);
    moved(&lab);
    let volume = lab.serve("");
    let mut client = Client::of(&volume);
    for start in 790..830 {
        for sectors in [1, 3, 8, 17, 40, 181] {
            client.assert_original(start, sectors);
        }
    }
    drop(client);
    volume.stop();
}

#[test]
fn a_bad_sector_among_them_is_the_only_error() {
    let lab = Lab::make(Policy::default(), 1);
    moved(&lab);
    let bad = on_spare(&lab, 836);
    let volume = serve(&lab, &format!("bad=sectors:{bad},errno=ENODATA,on=read"));
    let mut client = Client::of(&volume);
    let (result, bytes) = client.read(790, 181);
    assert_eq!(result, Err(FrontError::Io { bad: vec![ByteRange { start: 836 * 512, len: 512 }] }));
    for (sector, found) in (790..).zip(bytes.chunks(512)).filter(|(sector, _)| *sector != 836) {
        assert_eq!(found, pattern(sector), "sector {sector}");
    }
    client.assert_original(840, 131);
    drop(client);
    volume.stop();
}

#[test]
fn a_path_that_fails_fails_what_it_carries() {
    let lab = Lab::make(Policy::default(), 1);
    moved(&lab);
    let first = on_spare(&lab, 800);
    let volume = serve(&lab, &format!("bad=sectors:{first}-{},errno=ENOLINK,on=read", first + 200));
    let mut client = Client::of(&volume);
    let (result, _) = client.read(792, 40);
    // 816 and 824 are neighbours in the volume, too.
    let bad =
        [(800, 8), (816, 16)].map(|(start, sectors)| ByteRange { start: start * 512, len: sectors * 512 });
    assert_eq!(result, Err(FrontError::Io { bad: bad.to_vec() }));
    client.assert_original(808, 8);
    drop(client);
    volume.stop();
}
