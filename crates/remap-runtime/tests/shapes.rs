//! Random requests against a model, for every block size, on main devices whose last block is cut short, with sectors that
//! never take a write and sectors that heal, across restarts.

mod common;

use common::{Client, Lab, pattern};
use remap_core::op::RequestKind;
use remap_format::Policy;
use remap_runtime::front::{Export, FrontError};

/// A small generator (SplitMix64): the same numbers from the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What a sector holds; `None`: lost, or bad and not found out yet.
type Model = Vec<Option<[u8; 512]>>;

fn step(client: &mut Client, model: &mut Model, dice: &mut Dice, stamp: u64) {
    let sectors = model.len() as u64;
    let start = dice.below(sectors);
    let count = 1 + dice.below((sectors - start).min(200));
    let range = start as usize..(start + count) as usize;
    match dice.below(8) {
        0..4 => {
            let (result, bytes) = client.read(start, count);
            let mut bad = Vec::new();
            if let Err(FrontError::Io { bad: ranges }) = &result {
                bad.extend(ranges.iter().flat_map(|r| r.start / 512..(r.start + r.len) / 512));
            } else {
                assert_eq!(result, Ok(()));
            }
            for ((n, known), got) in (start..).zip(&model[range]).zip(bytes.chunks(512)) {
                match known {
                    Some(known) => {
                        assert!(!bad.contains(&n) && got == known, "sector {n} is not what was written")
                    }
                    None => assert!(bad.contains(&n), "sector {n} is lost, but a read gave something"),
                }
            }
        }
        4 => {
            let kind = RequestKind::WriteZeroes { fua: false, may_unmap: false };
            assert_eq!(client.run(kind, start, count, None).0, Ok(()));
            model[range].fill(Some([0; 512]));
        }
        5 => assert_eq!(client.run(RequestKind::Flush, 0, 0, None).0, Ok(())),
        _ => {
            let bytes: Vec<u8> = (start..start + count).flat_map(|n| pattern(n ^ (stamp << 20))).collect();
            assert_eq!(client.write(start, &bytes), Ok(()));
            for (known, sector) in model[range].iter_mut().zip(bytes.chunks_exact(512)) {
                *known = sector.try_into().ok();
            }
        }
    }
}

fn life(policy: Policy, block_size: u32, sectors: u64, drill: &str, bad: &[u64]) {
    let lab = Lab::shaped(policy, 2, sectors * 512, block_size);
    let mut model: Model = (0..sectors).map(|n| Some(pattern(n))).collect();
    bad.iter().for_each(|&n| model[n as usize] = None);
    let mut dice = Dice(u64::from(block_size) ^ bad.len() as u64);
    for round in 0..3 {
        let volume = lab.serve(drill);
        let mut client = Client::of(&volume);
        for stamp in 0..60 {
            step(&mut client, &mut model, &mut dice, 1 + round * 100 + stamp);
        }
        let lost = volume.lost().expect("lost").iter().map(|e| e.sectors()).sum::<u64>();
        let truly = model.iter().filter(|s| s.is_none()).count() as u64;
        assert!(lost <= truly, "{lost} sectors are said to be lost, {truly} are");
        let states = volume.block_status(0, sectors * 512, 10_000);
        assert_eq!(states.iter().map(|s| s.len).sum::<u64>(), sectors * 512);
        drop(client);
        volume.stop();
    }
}

#[test]
fn every_block_size_and_a_short_last_block() {
    for block_size in [512, 1024, 4096, 65536] {
        for policy in [Policy::RewriteThenRemap, Policy::RemapOnly] {
            let sectors = 2048 + 3;
            let bad: Vec<u64> = (100..120).chain([700, 703, 710]).chain(2046..2051).collect();
            let list = "bad=sectors:100-119;700;703;710;2046-2050,errno=ENODATA";
            life(policy, block_size, sectors, list, &bad);
            life(policy, block_size, sectors, &list.replace("ENODATA", "EIO"), &bad);
        }
    }
}
