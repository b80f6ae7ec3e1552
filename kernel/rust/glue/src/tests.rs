// SPDX-License-Identifier: GPL-2.0
// A kernel in a few lines: devices in memory, operations carried out at once.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::ffi::CStr;
use std::collections::HashMap;

use remap_core::op::{Fault, RequestKind};
use remap_core::units::{Extent, Now, Sector};
use remap_words::figures::Asked;
use remap_words::notice::Level;
use remap_words::table::{self, Grammar, TableLine};

use crate::assemble::{DeviceShape, Devices, Plan, Refusal, assemble};
use crate::call::Progress;
use crate::lookup::{self, Lane};
use crate::shown::{self, Lanes};
use crate::text::Text;
use crate::turn::{Driver, Input, MAX_OUT, Source, Work, WorkKind};
use crate::volume::{Boxed, Volume};

mod targets;

const SECTORS: usize = 8192;

#[derive(Default)]
struct Disks {
    main: Vec<u8>,
    spare: Vec<u8>,
    /// Another spare of the table line; empty: there is none.
    second: Vec<u8>,
    bad: Vec<u64>,
}

impl Disks {
    fn blank() -> Self {
        Self { main: vec![0; SECTORS * 512], spare: vec![0; 4 << 20], second: vec![], bad: vec![] }
    }

    fn given(&mut self, spare: usize) -> &mut Vec<u8> {
        if spare == 0 { &mut self.spare } else { &mut self.second }
    }
}

impl Devices for Disks {
    fn read(&mut self, spare: Option<usize>, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let disk = match spare {
            Some(given) => &*self.given(given),
            None => &self.main,
        };
        let at = offset as usize;
        into.copy_from_slice(disk.get(at..at + into.len()).ok_or(Fault::Gone)?);
        Ok(())
    }

    fn zero(&mut self, spare: usize, offset: u64, bytes: u64) -> Result<(), Fault> {
        self.given(spare)[offset as usize..(offset + bytes) as usize].fill(0);
        Ok(())
    }
}

struct Guest {
    volume: Boxed,
    kernel: Kernel,
    now: Now,
}

/// What came in, and what came out.
#[derive(Default)]
struct Kernel {
    disks: Disks,
    asked: Vec<(u64, RequestKind, Option<Extent>)>,
    done: Vec<(usize, Result<(), Fault>)>,
    requests: HashMap<u64, Vec<u8>>,
    ended: Vec<(u64, Result<(), Fault>)>,
    log: Vec<String>,
}

impl Driver for Kernel {
    fn next(&mut self, requests: bool) -> Option<Input> {
        if let Some((slot, result)) = self.done.pop() {
            return Some(Input::Ended { slot, result });
        }
        let (id, kind, extent) = self.asked.pop_if(|_| requests)?;
        Some(Input::Asked { id, kind, extent })
    }

    fn begin(&mut self, work: &Work<'_>) {
        let (at, len) = (work.extent.start().0 as usize * 512, work.extent.bytes() as usize);
        let moves = matches!(work.kind, WorkKind::Read | WorkKind::Write { .. });
        if work.device == 0 && moves && self.disks.bad.iter().any(|&bad| work.extent.contains(Sector(bad))) {
            self.done.push((work.slot, Err(Fault::Medium)));
            return;
        }
        let target = match work.device {
            0 => &mut self.disks.main,
            n => self.disks.given(n - 1),
        };
        let place = match work.kind {
            WorkKind::Flush | WorkKind::Grace => &mut [][..],
            _ => &mut target[at..at + len],
        };
        match (work.kind, work.source) {
            (WorkKind::Read, Source::Request(id, offset)) => {
                self.requests.get_mut(&id).unwrap()[offset as usize..][..len].copy_from_slice(place);
            }
            (WorkKind::Read, Source::Bytes(cells)) => {
                cells[..len].iter().zip(place).for_each(|(to, from)| to.set(*from));
            }
            (WorkKind::Write { .. }, Source::Request(id, offset)) => {
                place.copy_from_slice(&self.requests[&id][offset as usize..][..len]);
            }
            (WorkKind::Write { .. }, Source::Bytes(cells)) => {
                place.iter_mut().zip(&cells[..len]).for_each(|(to, from)| *to = from.get());
            }
            (WorkKind::Zeroes { .. }, Source::Nothing) => place.fill(0),
            (WorkKind::Flush | WorkKind::Grace, Source::Nothing) => {}
            other => panic!("{other:?}"),
        }
        self.done.push((work.slot, Ok(())));
    }

    fn end_request(&mut self, id: u64, result: Result<(), Fault>) {
        self.ended.push((id, result));
    }

    fn log(&mut self, _: Option<Level>, _: bool, text: &CStr) {
        self.log.push(text.to_str().unwrap().into());
    }
}

fn line(words: &str) -> TableLine {
    let words: Vec<&str> = words.split_whitespace().collect();
    table::parse(Grammar::Own, &words).unwrap()
}

fn open(disks: &mut Disks, words: &str, rehearse: bool) -> (Result<Option<Boxed>, Refusal>, String) {
    let line = line(words);
    let shape = |bytes: usize| DeviceShape { bytes: bytes as u64, logical_block: 512, read_only: false };
    let spares = [shape(disks.spare.len()), shape(disks.second.len())];
    let plan = Plan {
        line: &line,
        main: shape(disks.main.len()),
        spares: &spares[..line.spares.len()],
        volume_bytes: (SECTORS * 512) as u64,
        random: &[[7; 16], [9; 16], [11; 16]],
        name: "dm-0",
        now: Now { mono_ns: 1, unix_s: 1_700_000_000 },
        served: 0,
    };
    let mut said = String::new();
    (assemble(&plan, disks, rehearse, &mut said), said)
}

fn refusal(disks: &mut Disks, words: &str) -> String {
    match open(disks, words, true).0 {
        Err(refusal) => format!("{} {refusal}", refusal.errno()),
        Ok(_) => String::new(),
    }
}

fn guest(disks: &mut Disks, words: &str) -> Guest {
    let volume = open(disks, words, false).0.unwrap().unwrap();
    let now = Now { mono_ns: 1, unix_s: 1_700_000_000 };
    let mut guest = Guest { volume, kernel: Kernel::default(), now };
    guest.run(disks);
    guest
}

impl Guest {
    fn volume(&mut self) -> &mut Volume {
        &mut self.volume[0]
    }

    /// Takes turns until nothing is left to do.
    fn run(&mut self, disks: &mut Disks) {
        core::mem::swap(&mut self.kernel.disks, disks);
        loop {
            self.volume[0].turn(self.now, &mut self.kernel);
            if self.kernel.done.is_empty() && self.kernel.asked.is_empty() {
                break;
            }
        }
        core::mem::swap(&mut self.kernel.disks, disks);
    }

    fn ask(
        &mut self,
        disks: &mut Disks,
        kind: RequestKind,
        start: u64,
        bytes: Vec<u8>,
    ) -> (Result<(), Fault>, Vec<u8>) {
        let id = self.kernel.ended.len() as u64 + 100;
        let extent = Extent::new(Sector(start), bytes.len() as u64 / 512);
        self.kernel.requests.insert(id, bytes);
        self.kernel.asked.push((id, kind, extent));
        self.run(disks);
        assert!(!self.volume[0].is_busy());
        let (ended, result) = *self.kernel.ended.last().unwrap();
        assert_eq!(ended, id);
        (result, self.kernel.requests.remove(&id).unwrap())
    }

    fn say(&mut self, disks: &mut Disks, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let (mut out, now) = (String::new(), self.now);
        let names = [["s", "1:1"], ["t", "1:2"]];
        if let Progress::Pending(ticket) =
            self.volume().message(now, &words, &names, Asked::default(), &mut out)
        {
            let answers = self.volume().answers();
            assert_eq!(self.volume().answer(ticket, &mut out), Progress::Pending(ticket));
            assert!(out.is_empty() && self.volume().is_busy());
            self.run(disks);
            assert_eq!(self.volume().answers(), answers + 1);
            assert_eq!(self.volume().answer(ticket, &mut out), Progress::Answered);
        }
        out
    }

    fn place(&mut self, sector: u64, sectors: u32) -> (Lane, u64, u32) {
        let place = self.volume().lookup().place(sector, sectors, lookup::Asked::Read);
        (place.lane, place.sector, place.sectors)
    }
}

#[test]
fn a_blank_spare_is_adopted_and_found_again() {
    let mut disks = Disks::blank();
    assert!(matches!(open(&mut disks, "m s", true).0, Ok(None)));
    assert!(disks.spare.iter().all(|&byte| byte == 0), "looking writes nothing");
    let guest = guest(&mut disks, "m s");
    assert!(guest.volume[0].engine().is_live() && guest.volume[0].engine().is_idle());
    assert_eq!(guest.volume[0].copies_in_step(), 5);
    assert!(disks.main.iter().all(|&byte| byte == 0), "adopting writes nothing to the main device");
    drop(guest);
    let (again, said) = open(&mut disks, "m s 2 adopt never", false);
    assert!(again.is_ok() && said.is_empty(), "{said}");
}

#[test]
fn what_is_refused_says_why() {
    let mut disks = Disks::blank();
    assert!(refusal(&mut disks, "m s 2 adopt never").starts_with("22 spare 0 holds no volume"));
    assert!(refusal(&mut disks, "m s 2 block_size 65536").is_empty());
    disks.spare[1024 + 0x38..][..2].copy_from_slice(b"\x53\xef");
    disks.spare[1024 + 0x68..][..16].fill(5);
    assert!(
        refusal(&mut disks, "m s").starts_with("16 spare 0 holds something (ext:05"),
        "{}",
        refusal(&mut disks, "m s")
    );
    assert!(refusal(&mut disks, "m s 2 adopt force").is_empty());
    let mut disks = Disks::blank();
    disks.spare[4 << 18] = 1;
    assert!(
        refusal(&mut disks, "m s").starts_with("16 spare 0 is not blank: there is something at byte 1048576")
    );
    let mut disks = Disks::blank();
    disks.spare.truncate(8192);
    assert!(refusal(&mut disks, "m s").starts_with("28 spare 0 has 8192 bytes"));
    let mut disks = Disks::blank();
    drop(guest(&mut disks, "m s"));
    assert!(refusal(&mut disks, "m s 2 block_size 8192").contains("blocks of 4096 bytes, not 8192"));
    let size = disks.main.len();
    disks.main.truncate(size - 4096);
    assert!(refusal(&mut disks, "m s").starts_with("6 the main device has"));
    disks.main.resize(size + 4096, 0);
    assert!(refusal(&mut disks, "m s").starts_with("6 not the main device"));
    disks.main.resize(size, 0);
    for at in (0..disks.spare.len()).step_by(65536) {
        disks.spare[at + 100..at + 200].fill(0xee);
        disks.spare[at + 4196..at + 4296].fill(0xee);
    }
    assert!(
        refusal(&mut disks, "m s").starts_with("74 no dm-remap metadata"),
        "{}",
        refusal(&mut disks, "m s")
    );
}

#[test]
fn another_main_device_is_refused_by_what_it_holds() {
    let mut disks = Disks::blank();
    disks.main[1024 + 0x38..][..2].copy_from_slice(b"\x53\xef");
    disks.main[1024 + 0x68..][..16].fill(5);
    drop(guest(&mut disks, "m s"));
    disks.main[1024 + 0x68..][..16].fill(6);
    assert!(refusal(&mut disks, "m s").contains("its content is ext:06"));
    drop(guest(&mut disks, "m s 1 any_main"));
    assert_eq!(refusal(&mut disks, "m s"), "", "the new one was noted");
}

#[test]
fn bad_sectors_are_remapped_and_lost_ones_stay_errors() {
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    disks.bad = (80..88).chain([161]).collect();
    let bytes: Vec<u8> = (0..16 * 512).map(|n| (n % 251) as u8).collect();
    let (result, _) = guest.ask(&mut disks, RequestKind::Write { fua: true }, 76, bytes.clone());
    assert_eq!(result, Ok(()));
    let (result, read) = guest.ask(&mut disks, RequestKind::Read, 76, vec![0; 16 * 512]);
    assert_eq!((result, read == bytes), (Ok(()), true));
    assert_eq!(guest.ask(&mut disks, RequestKind::Read, 160, vec![0; 1024]).0, Err(Fault::Medium));
    assert_eq!(guest.ask(&mut disks, RequestKind::Read, 160, vec![0; 512]).0, Ok(()));
    // The fast lane sees all of it.
    assert_eq!(guest.place(0, 8192), (Lane::Main, 0, 80));
    let (lane, _, sectors) = guest.place(83, 100);
    assert_eq!((lane, sectors), (Lane::Spare(0), 5));
    assert_eq!(guest.place(162, 100), (Lane::Owner, 162, 6));
    let volume = guest.volume();
    assert_eq!(volume.lookup().place(83, 9, lookup::Asked::Discard).lane, Lane::Nobody);
    let figures = volume.figures(Asked::default());
    assert_eq!((figures.counts.remapped_blocks, figures.counts.lost_sectors), (1, 1));
    assert!(guest.kernel.log.iter().any(|news| news.contains("block 10 (sectors 80-87) is now at spare0:")));
    drop(guest);
    let mut guest = self::guest(&mut disks, "m s");
    let (result, read) = guest.ask(&mut disks, RequestKind::Read, 76, vec![0; 16 * 512]);
    assert_eq!((result, read == bytes), (Ok(()), true));
    disks.bad.clear();
    assert_eq!(
        guest.ask(&mut disks, RequestKind::Read, 161, vec![0; 512]).0,
        Err(Fault::Medium),
        "lost stays lost"
    );
    assert_eq!(guest.ask(&mut disks, RequestKind::Write { fua: false }, 161, vec![3; 512]).0, Ok(()));
    assert_eq!(guest.ask(&mut disks, RequestKind::Read, 161, vec![0; 512]), (Ok(()), vec![3; 512]));
}

#[test]
fn every_message_has_an_answer() {
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    for (words, answer) in [
        ("ping", "pong"),
        ("help", "Commands: ping"),
        ("remap 300", "remapped sector 300 -> spare sector "),
        ("remap 300", "error: sector 300 already remapped"),
        ("remap 300-319", "remapped 2 blocks of 3: 1 remapped already"),
        ("verify 300", "sector 300 -> spare "),
        ("verify 8", "sector 8 not remapped"),
        ("verify", "verified 3 blocks: 3 as the table says"),
        ("clear 300", "cleared 1 block"),
        ("clear", "cleared all remap entries"),
        ("test_remap 300 5", "Created test remap: bad_sector=300 spare_sector="),
        ("save", "metadata saved successfully"),
        ("sync", "synced 1 entries to metadata"),
        ("restore", "restored 1 remap entries"),
        ("suspend", "remapping suspended"),
        ("metadata_status", "metadata: enabled, autosave: inactive"),
        ("resume", "remapping resumed"),
        ("stats", "total_ios=0"),
        ("clear_stats", "Statistics cleared"),
        ("cache_stats", "cache_hits=0"),
        ("health", "health_score="),
        ("status", "mappings=1 "),
        ("bogus", "error: unknown command 'bogus'"),
        ("remap 8192", "error: invalid sector '8192': the volume has 8192 sectors"),
    ] {
        let found = guest.say(&mut disks, words);
        assert!(found.starts_with(answer), "{words}: {found}");
    }
    let (mut out, now) = (String::new(), guest.now);
    let Progress::Pending(ticket) = guest.volume().message(now, &["save"], &[], Asked::default(), &mut out)
    else {
        panic!("a save takes time")
    };
    guest.volume().forget(ticket);
    assert!(guest.volume().is_busy());
    guest.run(&mut disks);
    assert!(!guest.volume().is_busy(), "nobody waits for a forgotten one");
}

#[test]
fn spares_join_leave_and_take_each_others_place() {
    let mut disks = Disks::blank();
    drop(guest(&mut disks, "m s"));
    disks.second = vec![0; 4 << 20];
    let mut guest = guest(&mut disks, "m s 2 spare t");
    assert!(disks.second.iter().all(|&byte| byte == 0), "nobody writes to a spare that waits");
    disks.bad = (80..88).collect();
    assert_eq!(guest.ask(&mut disks, RequestKind::Write { fua: true }, 80, vec![8; 4096]).0, Ok(()));
    for (words, answer) in [
        ("retire-spare 0", "error: spare 0 is the volume's only one"),
        ("add-spare u", "error: u is not in the table line: load one with the option 'spare u'"),
        ("add-spare s", "error: s is spare 0 of the volume already"),
        ("add-spare t force", "error: a spare that holds something"),
        ("add-spare", "error: wrong arguments for 'add-spare'"),
        ("migrate t 7", "error: the volume has no spare number 7"),
        ("retire-spare x", "error: 'x' is not the number of a spare"),
        ("Add-Spare 1:2", "spare 1 has joined; from now on"),
        ("migrate t", "error: which spare is it to replace?"),
        ("remap 800", "remapped sector 800 -> spare sector"),
        ("retire-spare 0", "spare 0 has left the volume (2 blocks moved off it); from now on"),
        ("add-spare s", "error: s has left the volume"),
        ("bogus", "error: unknown command 'bogus' (try: ping, "),
    ] {
        let found = guest.say(&mut disks, words);
        assert!(found.starts_with(answer), "{words}: {found}");
    }
    assert_eq!(guest.volume().devices(), [None, Some(1)]);
    let read = guest.ask(&mut disks, RequestKind::Read, 80, vec![0; 4096]);
    assert_eq!(read, (Ok(()), vec![8; 4096]));
    drop(guest);
    // It is assembled with the second one alone, which then gives its place to a blank one.
    disks.spare = core::mem::replace(&mut disks.second, vec![0; 4 << 20]);
    let mut guest = self::guest(&mut disks, "m s 4 adopt never spare t");
    let found = guest.say(&mut disks, "migrate t");
    assert!(
        found.starts_with("spare 2 has joined and spare 1 has left the volume (2 blocks moved off it)"),
        "{found}"
    );
    let read = guest.ask(&mut disks, RequestKind::Read, 80, vec![0; 4096]);
    assert_eq!(read, (Ok(()), vec![8; 4096]));
    assert_eq!(guest.volume[0].copies_in_step(), 5);
}

#[test]
fn a_spare_that_holds_something_does_not_wait() {
    let mut disks = Disks::blank();
    drop(guest(&mut disks, "m s"));
    disks.second = vec![0; 4 << 20];
    disks.second[1024 + 0x38..][..2].copy_from_slice(b"\x53\xef");
    disks.second[1024 + 0x68..][..16].fill(5);
    let why = refusal(&mut disks, "m s 2 spare t");
    assert!(why.starts_with("16 spare 1 holds something (ext:05"), "{why}");
    let (_, said) = open(&mut disks, "m s 4 spare t adopt force", false);
    assert!(said.contains("spare 1 is not of the volume: it waits for the message add-spare"), "{said}");
}

#[test]
fn figures_have_names_and_some_can_be_set() {
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    let lanes = Lanes { reads: 5, writes: 3, slow: 2, flushes: 7, ..Lanes::default() };
    let mut shown = HashMap::new();
    for (name, tunable) in (0..).map_while(shown::name) {
        let mut text = String::new();
        let name = name.to_str().unwrap();
        guest.volume[0].figure(name, &lanes, &mut text).unwrap();
        assert!(text.ends_with('\n') && text.len() > 1, "{name}: {text:?}");
        assert!(shown.insert(name, (tunable, text)).is_none(), "{name} is there twice");
    }
    for (name, value) in [
        ("state", "healthy\n"),
        ("copies_in_step", "5\n"),
        ("reads", "5\n"),
        ("fast_parts", "6\n"),
        ("flushes", "7\n"),
        ("max_remaps", "0\n"),
        ("policy", "rewrite-then-remap\n"),
    ] {
        assert_eq!(shown[name].1, value, "{name}");
    }
    let tunable: Vec<&str> = shown.iter().filter(|(_, shown)| shown.0).map(|(name, _)| *name).collect();
    assert_eq!(tunable.len(), 3, "{tunable:?}");
    let (most, policy) = ("max_remaps", "policy");
    assert!(
        !guest.volume().tune(most, "x")
            && !guest.volume().tune(policy, "none")
            && !guest.volume().tune("state", "1")
    );
    assert!(guest.volume().tune(most, "1") && guest.volume().tune(policy, "remap-only"));
    let mut text = String::new();
    guest.volume[0].figure(most, &lanes, &mut text).unwrap();
    guest.volume[0].figure(policy, &lanes, &mut text).unwrap();
    assert_eq!(text, "1\nremap-only\n");
    assert!(guest.say(&mut disks, "remap 0").starts_with("remapped sector 0"));
    assert_eq!(guest.say(&mut disks, "remap 800"), "error: no spare sectors available");
    assert!(guest.volume().tune(most, "0"));
    assert!(guest.say(&mut disks, "remap 800").starts_with("remapped sector 800"));
    // remap-only: an unreadable sector moves its block at once.
    disks.bad = vec![1601];
    assert!(guest.ask(&mut disks, RequestKind::Read, 1600, vec![0; 1024]).0.is_err());
    assert_eq!(guest.volume[0].figures(Asked::default()).counts.remapped_blocks, 3);
}

#[test]
#[should_panic(expected = "trigger_failure was set")]
fn a_failure_comes_when_it_was_asked_for() {
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    assert!(!guest.volume().tune("trigger_failure", "soon"));
    assert!(guest.volume().tune("trigger_failure", "2"));
    // One input: a request that is over at once.
    guest.kernel.asked.push((1, RequestKind::Read, None));
    guest.run(&mut disks);
    assert!(guest.kernel.ended.iter().any(|(id, _)| *id == 1), "not yet");
    guest.kernel.asked.push((2, RequestKind::Read, None));
    guest.run(&mut disks);
}

#[test]
fn what_a_driver_looks_at_agrees_with_the_look_up() {
    use core::sync::atomic::Ordering;
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    assert!(guest.say(&mut disks, "remap 4500").starts_with("remapped"));
    let (summary, moving, shift) = guest.volume[0].lookup().summary();
    assert_eq!((shift, moving.load(Ordering::Relaxed)), (5, 0), "4 blocks of 8 sectors");
    let marked = |sector: u64| {
        summary[(sector >> shift) as usize / 64].load(Ordering::Relaxed) >> ((sector >> shift) % 64) & 1
    };
    assert_eq!((marked(0), marked(4500)), (0, 1));
}

#[test]
fn texts_are_cut_and_end() {
    use core::fmt::Write as _;
    let mut room = [b'x'; 6];
    let mut text = Text::new(&mut room);
    assert!(write!(text, "ab").is_ok() && write!(text, "cdef").is_err());
    assert_eq!(text.len(), 5);
    assert_eq!(&room, b"abcde\0");
    assert_eq!(Text::new(&mut room).as_c_str(), c"");
    let mut none = [];
    assert!(Text::new(&mut none).write_str("a").is_err());
}

#[test]
fn more_requests_than_the_engine_takes_wait_their_turn() {
    let mut disks = Disks::blank();
    let mut guest = guest(&mut disks, "m s");
    let many = 4 * MAX_OUT as u64;
    for id in 0..many {
        guest.kernel.requests.insert(id, vec![id as u8; 512]);
        let extent = Extent::new(Sector(id * 8 % 8192), 1);
        guest.kernel.asked.push((id, RequestKind::Write { fua: false }, extent));
    }
    guest.kernel.asked.push((many, RequestKind::Read, None));
    guest.kernel.asked.push((many + 1, RequestKind::Read, Extent::new(Sector(8192), 1)));
    guest.run(&mut disks);
    assert!(!guest.volume().is_busy());
    let ended = &guest.kernel.ended;
    assert_eq!(ended.len() as u64, many + 2);
    assert!(ended.iter().all(|(id, result)| result.is_ok() == (*id < many)), "{ended:?}");
}
