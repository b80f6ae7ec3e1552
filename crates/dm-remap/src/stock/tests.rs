//! A device-mapper of the test's own, with clients: what they see while blocks move, and what a crash between any two calls would leave.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use remap_core::engine::Command;
use remap_core::units::{Block, Extent, Sector, Slot};
use remap_format::{Cause, Entry, Policy};
use remap_io::mapper::{DeviceMapper, DeviceNumber, Mapped, MapperError, Segment, Target};
use remap_io::{Device, Drill, OpenOptions as DeviceOptions};
use remap_runtime::{AdoptOptions, Bypass as _, Carried, OpenOptions, Volume, adopt, examine};

use super::carrier::{Carrier, Figures};
use super::found::{existing, uuid_of};
use super::own::{Requests, scrub};
use super::table::{Shape, SpareNumber, disagreement, segments};
use crate::map::pieces::tests::entry;
use crate::news::News;

const SECTORS: u64 = 2048;
const NAME: &str = "lab";
const MAIN: DeviceNumber = DeviceNumber { major: 8, minor: 0 };
const SPARE: DeviceNumber = DeviceNumber { major: 8, minor: 16 };
const SHAPE: Shape = Shape { size: SECTORS, block: 8, unit: 1, main: MAIN };
const SPARES: [SpareNumber; 1] = [SpareNumber { spare: 0, device: SPARE, start: 0 }];

/// What a device-mapper keeps.
#[derive(Clone, Debug, Default)]
struct Kernel {
    made: bool,
    uuid: String,
    live: Vec<Segment>,
    loaded: Option<Vec<Segment>>,
    suspended: bool,
    in_flight: u32,
    /// Calls so far, and those that fail, by number.
    calls: u32,
    failing: BTreeSet<u32>,
}

/// A device-mapper, its devices, and what looks at it between two calls.
struct Fake {
    kernel: Mutex<Kernel>,
    changed: Condvar,
    devices: HashMap<DeviceNumber, File>,
    /// Sectors of the main device that clients cannot read or write.
    bad: BTreeSet<u64>,
    look: Mutex<Option<Look>>,
    /// What it found wrong.
    wrong: Mutex<Vec<String>>,
    looks: AtomicU32,
}

type Look = Box<dyn FnMut(&Kernel) -> Result<(), String> + Send>;

/// The handle that the carrier has.
struct Handle(Arc<Fake>);

impl Fake {
    fn lock(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: looked at before and after.
    fn call<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> Result<T, MapperError> {
        let mut kernel = self.lock();
        self.look(&kernel);
        kernel.calls += 1;
        let number = kernel.calls;
        if kernel.failing.contains(&number) {
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            return Err(MapperError::Refused { name: NAME.into(), action: "a call", source });
        }
        let done = act(&mut kernel);
        self.look(&kernel);
        self.changed.notify_all();
        Ok(done)
    }

    fn look(&self, kernel: &Kernel) {
        if let Some(look) = &mut *self.look.lock().unwrap_or_else(PoisonError::into_inner) {
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(look(kernel).err());
        }
    }

    /// A client's request of one sector, by the table that is live when it begins.
    fn request(&self, sector: u64, write: Option<&[u8; 512]>) -> Option<[u8; 512]> {
        let mut kernel = self.lock();
        while kernel.suspended {
            kernel = self.changed.wait(kernel).unwrap_or_else(PoisonError::into_inner);
        }
        kernel.in_flight += 1;
        let here = |s: &&Segment| s.start <= sector && sector < s.start + s.sectors;
        let segment = kernel.live.iter().find(here).cloned().expect("the table covers the volume");
        drop(kernel);
        std::thread::yield_now();
        let outcome = match segment.target {
            Target::Linear { device, sector: first } => {
                let at = first + (sector - segment.start);
                let file = &self.devices[&device];
                let mut bytes = write.copied().unwrap_or([0; 512]);
                match write {
                    _ if device == MAIN && self.bad.contains(&at) => None,
                    Some(bytes) => file.write_all_at(bytes, at * 512).ok().map(|()| *bytes),
                    None => file.read_exact_at(&mut bytes, at * 512).ok().map(|()| bytes),
                }
            }
            _ => None,
        };
        self.lock().in_flight -= 1;
        self.changed.notify_all();
        outcome
    }
}

impl DeviceMapper for Handle {
    fn find(&mut self, _: &str) -> Result<Option<Mapped>, MapperError> {
        let kernel = self.0.lock();
        Ok(kernel.made.then(|| Mapped {
            uuid: kernel.uuid.clone(),
            number: DeviceNumber { major: 253, minor: 0 },
            open_count: 0,
            suspended: kernel.suspended,
            live: !kernel.live.is_empty(),
            loaded: kernel.loaded.is_some(),
            read_only: false,
        }))
    }

    fn create(&mut self, _: &str, _: &str) -> Result<(), MapperError> {
        self.0.call(|kernel| kernel.made = true)
    }

    fn load(&mut self, _: &str, table: &[Segment], _: bool) -> Result<(), MapperError> {
        self.0.call(|kernel| kernel.loaded = Some(table.to_vec()))
    }

    fn clear(&mut self, _: &str) -> Result<(), MapperError> {
        self.0.call(|kernel| kernel.loaded = None)
    }

    fn suspend(&mut self, _: &str) -> Result<(), MapperError> {
        self.0.call(|_| ())?;
        let mut kernel = self.0.lock();
        kernel.suspended = true;
        while kernel.in_flight > 0 {
            kernel = self.0.changed.wait(kernel).unwrap_or_else(PoisonError::into_inner);
        }
        drop(kernel);
        self.0.call(|_| ())
    }

    fn resume(&mut self, _: &str) -> Result<(), MapperError> {
        self.0.call(|kernel| {
            if let Some(table) = kernel.loaded.take() {
                kernel.live = table;
            }
            kernel.suspended = false;
        })
    }

    fn table(&mut self, _: &str) -> Result<Vec<Segment>, MapperError> {
        Ok(self.0.lock().live.clone())
    }

    fn remove(&mut self, _: &str) -> Result<(), MapperError> {
        self.0.call(|kernel| *kernel = Kernel::default())
    }
}

struct Lab {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
}

fn pattern(seed: u64, sector: u64) -> [u8; 512] {
    std::array::from_fn(|i| (seed.wrapping_mul(89) + sector.wrapping_mul(31) + i as u64).to_le_bytes()[0])
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(Sector(start), sectors).unwrap()
}

fn number_of(device: &Device) -> Option<DeviceNumber> {
    Some(if device.path().ends_with("main") { MAIN } else { SPARE })
}

fn device(path: &Path) -> Device {
    let options = DeviceOptions { write: true, exclusive: true, ..DeviceOptions::default() };
    Device::open(path, &options).unwrap()
}

impl Lab {
    /// `lost`: known from a rescue map. `bad`: the main device's own.
    fn new(policy: Policy, lost: &[Extent], bad: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (main, spare) = (dir.path().join("main"), dir.path().join("spare"));
        let bytes: Vec<u8> = (0..SECTORS).flat_map(|sector| pattern(0, sector)).collect();
        fs::write(&main, bytes).unwrap();
        File::create(&spare).unwrap().set_len(4 << 20).unwrap();
        let options =
            AdoptOptions { name: NAME.into(), block_size: 4096, policy, lost: lost.to_vec(), force: false };
        adopt(&device(&main), &[device(&spare)], &options).unwrap();
        let open = |path: &PathBuf| File::options().read(true).write(true).open(path).unwrap();
        let devices = HashMap::from([(MAIN, open(&main)), (SPARE, open(&spare))]);
        let kernel = Kernel { made: true, ..Kernel::default() };
        let fake = Arc::new(Fake {
            kernel: Mutex::new(kernel),
            changed: Condvar::new(),
            devices,
            bad: bad.iter().copied().collect(),
            look: Mutex::default(),
            wrong: Mutex::default(),
            looks: AtomicU32::new(0),
        });
        Self { dir, fake }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The carrier of a life that finds the device as it is.
    fn carrier(&self) -> Carrier {
        let (news, _writer) = News::open().unwrap();
        let (live, suspended) = {
            let kernel = self.fake.lock();
            (kernel.live.clone(), kernel.suspended)
        };
        Carrier {
            mapper: Box::new(Handle(Arc::clone(&self.fake))),
            name: NAME.into(),
            shape: SHAPE,
            read_only: false,
            claims: Vec::new(),
            take_claim: |_| Ok(None),
            number_of,
            figures: Arc::new(Figures::default()),
            news,
            live: Some(live).filter(|live| !live.is_empty()),
            suspended: suspended.then(std::time::Instant::now),
        }
    }

    fn serve(&self) -> anyhow::Result<Volume> {
        let mut main = device(&self.path("main"));
        if !self.fake.bad.is_empty() {
            let bad: Vec<String> = self.fake.bad.iter().map(ToString::to_string).collect();
            let drill = Drill::parse(&format!("bad=sectors:{},errno=ENODATA", bad.join(";"))).unwrap();
            main = main.with_drill(Arc::new(drill));
        }
        let options = OpenOptions { bypass: Some(Box::new(self.carrier())), ..OpenOptions::default() };
        Ok(Volume::open(main, vec![device(&self.path("spare"))], options)?.0)
    }

    fn read(&self, sector: u64) -> Option<[u8; 512]> {
        self.fake.request(sector, None)
    }

    fn write(&self, sector: u64, seed: u64) -> bool {
        self.fake.request(sector, Some(&pattern(seed, sector))).is_some()
    }

    /// Every sector against the seeds that were written last; lost ones have none.
    fn check(&self, seeds: &[Option<u64>]) {
        for (sector, seed) in (0..).zip(seeds) {
            let expected = seed.map(|seed| pattern(seed, sector));
            assert_eq!(self.read(sector), expected, "sector {sector}");
        }
    }

    /// Looks at what is there between any two calls as the next life would find it.
    fn watch_every_call(&self, seeds: &Arc<Mutex<Vec<Option<u64>>>>) {
        let (dir, seeds) = (self.dir.path().to_path_buf(), Arc::clone(seeds));
        let look = move |kernel: &Kernel| survives(&dir, kernel, &seeds.lock().unwrap());
        *self.fake.look.lock().unwrap() = Some(Box::new(look));
    }

    fn nothing_was_wrong(&self) {
        let wrong = self.fake.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// What a crash now would leave: by the metadata every sector is there, and a device that carries sends nothing elsewhere.
fn survives(dir: &Path, kernel: &Kernel, seeds: &[Option<u64>]) -> Result<(), String> {
    let copy = dir.join("after-crash");
    fs::copy(dir.join("spare"), &copy).unwrap();
    let entries: Vec<Entry> = examine(&[device(&copy)], false).unwrap().table.iter().collect();
    if !kernel.suspended && !kernel.live.is_empty() {
        let wrong = disagreement(&kernel.live, &SHAPE, &SPARES, &entries, |_| true);
        if let Some(sector) = wrong {
            return Err(format!(
                "call {}: sector {sector} of {:?} for {entries:?}",
                kernel.calls, kernel.live
            ));
        }
    }
    let (main, spare) = (fs::read(dir.join("main")).unwrap(), fs::read(&copy).unwrap());
    for segment in segments(&SHAPE, &SPARES, &entries, &[]) {
        for sector in segment.start..segment.start + segment.sectors {
            let seed = seeds[usize::try_from(sector).unwrap()];
            let Target::Linear { device, sector: first } = &segment.target else {
                if seed.is_some() {
                    return Err(format!("call {}: sector {sector} is an error", kernel.calls));
                }
                continue;
            };
            let bytes = if *device == MAIN { &main } else { &spare };
            let at = usize::try_from((first + sector - segment.start) * 512).unwrap();
            if seed.is_some_and(|seed| bytes[at..at + 512] != pattern(seed, sector)) {
                return Err(format!("call {}: sector {sector} has other bytes", kernel.calls));
            }
        }
    }
    Ok(())
}

fn seeds() -> Vec<Option<u64>> {
    vec![Some(0); SECTORS as usize]
}

#[test]
fn blocks_move_and_come_home_and_every_step_survives_a_crash() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[extent(64, 3)], &[]);
    let all = Arc::new(Mutex::new(seeds()));
    (64..67).for_each(|sector| all.lock().unwrap()[sector] = None);
    lab.watch_every_call(&all);
    let volume = lab.serve().unwrap();
    let set = |range: std::ops::Range<u64>, seed: u64| {
        for sector in range {
            assert!(lab.write(sector, seed), "sector {sector}");
            all.lock().unwrap()[sector as usize] = Some(seed);
        }
    };
    // A copy: whoever looks between two calls has the lock.
    let check = || {
        let now = all.lock().unwrap().clone();
        lab.check(&now);
    };
    check();
    for round in 1..4 {
        set(90..130, round);
        let outcome = volume.command(Command::Remap(extent(80, 64), Cause::Manual)).unwrap();
        assert_eq!((outcome.blocks, outcome.failed), (8, 0));
        set(100..110, round + 10);
        set(200..210, round);
        check();
        let outcome = volume.command(Command::Clear(extent(96, 16))).unwrap();
        assert_eq!((outcome.done, outcome.failed), (2, 0));
        set(90..105, round + 20);
        check();
        volume.command(Command::Clear(extent(80, 64))).unwrap();
    }
    assert!(!lab.write(65, 9), "no client can write where nothing is");
    let healed = Requests::of(&volume).unwrap().heal(&volume, &extent(65, 100)).unwrap();
    assert_eq!(healed, 2);
    // Zeroes are nobody's pattern.
    *lab.fake.look.lock().unwrap() = None;
    assert_eq!((lab.read(65), lab.read(66), lab.read(64)), (Some([0; 512]), Some([0; 512]), None));
    set(65..67, 5);
    check();
    volume.stop();
    drop(volume);
    assert!(!lab.fake.lock().suspended);
    lab.nothing_was_wrong();
    assert!(lab.fake.looks.load(Ordering::Relaxed) > 50);

    // The next life, by the same table: nothing is suspended, and nothing loaded.
    let calls = lab.fake.lock().calls;
    let volume = lab.serve().unwrap();
    assert_eq!(lab.fake.lock().calls, calls);
    check();
    volume.stop();
}

#[test]
fn a_device_that_was_left_suspended_is_resumed_by_what_the_metadata_say() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    let volume = lab.serve().unwrap();
    let before = lab.fake.lock().live.clone();
    volume.command(Command::Remap(extent(80, 8), Cause::Manual)).unwrap();
    volume.stop();
    drop(volume);
    // As after a crash between the commit and the load; and with a table loaded that is of yet another time.
    {
        let mut kernel = lab.fake.lock();
        kernel.suspended = true;
        kernel.live.clone_from(&before);
        kernel.loaded = Some(vec![Segment { start: 0, sectors: SECTORS, target: Target::Error }]);
    }
    let volume = lab.serve().unwrap();
    let kernel = lab.fake.lock().clone();
    assert!(!kernel.suspended && kernel.loaded.is_none());
    assert_ne!(kernel.live, before);
    lab.check(&seeds());
    volume.stop();
}

/// Clients write and read back while their blocks move to and fro: each sector has one writer, who knows what he wrote.
#[test]
fn no_write_is_lost_while_blocks_move() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    let volume = lab.serve().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..3u64 {
            let (lab, done) = (&lab, &done);
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    for sector in (client..240).step_by(3) {
                        assert!(lab.write(sector, round), "sector {sector}");
                    }
                    for sector in (client..240).step_by(3) {
                        assert_eq!(lab.read(sector), Some(pattern(round, sector)), "sector {sector}");
                    }
                }
            });
        }
        let outcomes: Vec<_> = (0..25)
            .map(|round| {
                let part = extent(round * 56 % 200, 40);
                let moved = volume.command(Command::Remap(part, Cause::Manual)).unwrap();
                let cleared = volume.command(Command::Clear(part)).unwrap();
                (moved.done, moved.failed, cleared.done, cleared.failed)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        for (moved, not_moved, cleared, not_cleared) in outcomes {
            assert!(moved >= 5 && cleared >= 5 && not_moved + not_cleared == 0);
        }
    });
    volume.stop();
}

#[test]
fn a_call_that_fails_is_an_error_or_is_made_again() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    let volume = lab.serve().unwrap();
    let next = |n: u32| lab.fake.lock().calls + n;
    // The suspension: nothing moves, and clients go on.
    let failing = next(1);
    lab.fake.lock().failing = BTreeSet::from([failing]);
    let outcome = volume.command(Command::Remap(extent(80, 8), Cause::Manual)).unwrap();
    assert_eq!((outcome.done, outcome.failed), (0, 1));
    assert!(volume.status().unwrap().breaker.is_none(), "it says nothing about any device");
    lab.check(&seeds());
    // The load, then the resume: clients wait until it is done.
    for call in [3, 4] {
        let failing = next(call);
        lab.fake.lock().failing = BTreeSet::from([failing]);
        let part = extent(80 + 8 * u64::from(call), 8);
        let outcome = volume.command(Command::Remap(part, Cause::Manual)).unwrap();
        assert_eq!(outcome.done, 1);
        lab.check(&seeds());
    }
    volume.stop();
    assert!(!lab.fake.lock().suspended);
}

#[test]
fn a_table_that_cannot_be_taken_into_service_at_first_is_a_refusal() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    lab.fake.lock().failing = BTreeSet::from([1]);
    let error = lab.serve().err().expect("it is refused");
    assert!(format!("{error:#}").contains("a call"), "{error:#}");
    lab.serve().expect("and tried again").stop();
}

#[test]
fn what_the_main_device_cannot_read_is_left_to_it_or_moves_by_policy() {
    for policy in [Policy::RewriteThenRemap, Policy::RemapOnly] {
        let lab = Lab::new(policy, &[], &[83, 84]);
        let volume = lab.serve().unwrap();
        assert_eq!(lab.read(83), None);
        assert_eq!(scrub(&volume, &extent(0, SECTORS)).unwrap(), 2, "{policy:?}");
        // The engine learns by itself, in its own time: the next command comes after it.
        while volume.status().unwrap().counts.entries == 0 && policy == Policy::RemapOnly {
            std::thread::yield_now();
        }
        volume.command(Command::Verify { extent: extent(0, SECTORS), all: false }).unwrap();
        let entries = volume.entries().unwrap();
        let mut expected = seeds();
        (83..85).for_each(|sector: usize| expected[sector] = None);
        lab.check(&expected);
        match policy {
            Policy::RewriteThenRemap => assert_eq!(entries, []),
            Policy::RemapOnly => {
                assert_eq!((entries[0].block, entries[0].lost), (10, 0b11000));
                assert!(lab.write(82, 1) && !lab.write(83, 1));
            }
        }
        volume.stop();
    }
}

#[test]
fn pending_sectors_that_the_disk_fails_itself_are_not_kept_but_imported_ones_are() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[extent(160, 8)], &[83]);
    // A life with NBD notes the bad sector.
    let drill = Drill::parse("bad=sectors:83,errno=ENODATA").unwrap();
    let main = device(&lab.path("main")).with_drill(Arc::new(drill));
    let (volume, _) = Volume::open(main, vec![device(&lab.path("spare"))], OpenOptions::default()).unwrap();
    volume.command(Command::Verify { extent: extent(80, 8), all: true }).unwrap();
    let noted = volume.entries().unwrap();
    assert_eq!(noted.len(), 2, "{noted:?}");
    volume.stop();
    drop(volume);

    let volume = lab.serve().unwrap();
    let kept = volume.entries().unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].block, 20);
    volume.stop();
    drop(volume);
    let durable: Vec<Entry> = examine(&[device(&lab.path("spare"))], false).unwrap().table.iter().collect();
    assert_eq!(durable, kept, "so that no later life hides what a client writes there");
    assert!(lab.read(160).is_none() && lab.read(82).is_some());
}

#[test]
fn a_hold_is_refused_where_nothing_is_mapped() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    let main = device(&lab.path("main"));
    let (volume, _) = Volume::open(main, vec![device(&lab.path("spare"))], OpenOptions::default()).unwrap();
    assert!(volume.hold(vec![Block(1)]).is_err());
    volume.stop();
}

#[test]
fn a_spare_is_ours_while_no_table_names_it() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    let slice = DeviceOptions { slice: Some((8 << 9, None)), ..DeviceOptions::default() };
    let spare = Device::open(&lab.path("spare"), &slice).unwrap();
    let mut carrier = lab.carrier();
    let mut carry = |entries: Vec<Entry>| {
        let carried = Carried { entries, closed: Vec::new(), spares: vec![(0, spare.clone())] };
        carrier.carry(&carried).unwrap();
        carrier.claims.iter().map(|claimed| claimed.number).collect::<Vec<_>>()
    };
    let moved = |block| entry(block, 1, Some(Slot::new(0, 100)), 0);
    assert_eq!(carry(Vec::new()), [SPARE]);
    // A table that names another device only leaves what we have.
    assert_eq!(carry(vec![entry(3, 1, None, 1)]), [SPARE], "once");
    assert_eq!(carry(vec![moved(1)]), [], "the kernel has it now");
    let there = Target::Linear { device: SPARE, sector: 8 + 800 };
    assert_eq!(lab.fake.lock().live[1].target, there, "the slice begins behind eight sectors");
    assert_eq!(carry(vec![moved(2)]), []);
    assert_eq!(carry(Vec::new()), [SPARE], "and we have it again");
}

#[test]
fn a_mapped_device_that_is_there_is_taken_over_only_if_it_is_this_volumes() {
    let lab = Lab::new(Policy::RewriteThenRemap, &[], &[]);
    lab.serve().unwrap().stop();
    let recovered = examine(&[device(&lab.path("spare"))], false).unwrap();
    let uuid = uuid_of(&recovered);
    assert_eq!(uuid.len(), "DM-REMAP-".len() + 36, "{uuid}");
    let found = || {
        let mut handle = Handle(Arc::clone(&lab.fake));
        existing(&mut handle, NAME, &uuid, (&SHAPE, &SPARES), &recovered).map_err(|error| error.to_string())
    };
    assert!(found().unwrap_err().contains("one without a UUID"));
    lab.fake.lock().uuid = "LVM-x".into();
    assert!(found().unwrap_err().contains("another mapped device (LVM-x, this volume's is DM-REMAP-"));
    lab.fake.lock().uuid.clone_from(&uuid);
    let (mapped, live) = found().unwrap().expect("it is ours");
    assert!(!mapped.suspended && live == lab.fake.lock().live);
    let foreign = vec![Segment { start: 0, sectors: SECTORS, target: Target::Other("zero".into()) }];
    lab.fake.lock().live.clone_from(&foreign);
    assert!(found().unwrap_err().contains("carries requests of sector 0 to another place"));
    lab.fake.lock().suspended = true;
    assert_eq!(found().unwrap().expect("nobody wrote through it").1, foreign);
    lab.fake.lock().made = false;
    assert!(found().unwrap().is_none());
}
