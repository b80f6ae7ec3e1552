//! `stock`: a volume as a mapped device of the kernel's own `linear` and `error` segments, without a module of ours.
//!
//! Invariant: the table in service says what the durable metadata say, but that blocks may be errors while they move; it is changed
//! only while the device stands still. The argument, case by case, is in `docs/stock-tables.md`.

mod carrier;
mod found;
mod guard;
mod own;
mod sentry;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use remap_core::units::Extent;
use remap_io::mapper::{self, Control, DeviceMapper as _, DeviceNumber};
use remap_io::process::{self, Ended};
use remap_io::watch::ErrorWatch;
use remap_io::{Device, Wake, users};
use remap_runtime::Volume;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::carrier::{Carrier, Figures, take_claim};
use self::guard::Word;
use self::sentry::SentryFigures;
use crate::adopt::plain_name;
use crate::cli::{
    StockAction, StockArgs, StockAssembleArgs, StockRemoveArgs, StockServeArgs, StockVolumeArgs,
};
use crate::control::{self, Answer, CONTROL_SUFFIX, Client, Control as ControlSocket};
use crate::exit::{Exit, exit_of, refusal};
use crate::news::{Level, News};
use crate::notify;
use crate::open::{Access, Opener, examine};
use crate::serve::{Assembly, Service, StopAtEnd};
use crate::status_json::MapperReport;
use crate::units::{format_sectors, format_size};

/// Said wherever somebody begins to use it.
const LIMIT: &str = "stock tables: the kernel carries the requests, and we only hear of errors: the first write that fails reaches the file \
                     system; its block is moved for the next one (docs/stock-tables.md)";

/// The mapped device of a volume in service.
pub(crate) struct Stock {
    name: String,
    path: PathBuf,
    number: DeviceNumber,
    figures: Arc<Figures>,
    heard: Arc<SentryFigures>,
    source: std::sync::OnceLock<&'static str>,
}

impl Stock {
    /// For `status`.
    pub(crate) fn report(&self) -> MapperReport {
        let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
        MapperReport {
            name: self.name.clone(),
            path: self.path.display().to_string(),
            device: self.number.to_string(),
            segments: load(&self.figures.segments),
            reloads: load(&self.figures.reloads),
            suspensions: load(&self.figures.suspensions),
            suspended_us_max: load(&self.figures.suspended_us_max),
            errors_from: self.source.get().copied().unwrap_or("nobody").to_owned(),
            read_errors: load(&self.heard.read_errors),
            write_errors: load(&self.heard.write_errors),
            left_to_main: load(&self.heard.left_to_main),
        }
    }
}

/// Reads an extent while clients go on; acts on what is bad. Gives the sectors that cannot be read.
///
/// # Errors
/// See [`own::scrub`].
pub(crate) fn scrub(volume: &Volume, extent: &Extent) -> anyhow::Result<u64> {
    own::scrub(volume, extent)
}

/// A device that is to be a spare of a mapped device's volume: fit to be in a table, and nobody else's while this lives.
///
/// # Errors
/// It is a file, or in use.
pub(crate) fn may_join(path: &Path) -> anyhow::Result<users::Claim> {
    found::wants_block_device(path)?;
    Ok(users::Claim::take(path)?)
}

/// Puts zeroes on the lost sectors of an extent; gives how many.
///
/// # Errors
/// See [`own::Requests::heal`].
pub(crate) fn heal(volume: &Volume, extent: &Extent) -> anyhow::Result<u64> {
    own::Requests::of(volume)?.heal(volume, extent)
}

/// Runs the command.
pub(crate) fn run(args: &StockArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        StockAction::Serve(args) => {
            // Without device-mapper nothing else is worth a word.
            Control::open()?;
            // The process that watches, too: what it forks must be in memory.
            stand_below_files();
            guard::watch_over(|before, word| ending(serve(args, before, word)))
        }
        StockAction::Assemble(args) => {
            Control::open()?;
            stand_below_files();
            assemble(args)
        }
        StockAction::Remove(args) => remove(args),
    }
}

fn ending(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("dm-remap: {error:#}");
        exit_of(&error).into()
    })
}

fn stand_below_files() {
    if let Err(error) = process::stand_below_files() {
        eprintln!(
            "dm-remap: memory cannot be kept in place ({error}): do not use the device for swap space or for the files of this program"
        );
    }
}

/// A volume that a mapped device carries.
struct Up {
    service: Service,
    control: ControlSocket,
}

/// The volume's devices and their metadata.
struct Opened {
    opener: Opener,
    main: Device,
    spares: Vec<Device>,
    recovered: remap_core::recovery::Recovered,
    name: String,
}

fn open(args: &StockVolumeArgs) -> anyhow::Result<Opened> {
    let access = if args.read_only { Access::Read } else { Access::Write };
    for path in std::iter::once(&args.main).chain(args.spares.iter().map(|spare| &spare.path)) {
        found::wants_block_device(path)?;
    }
    let mut opener = Opener::below_mapper();
    let main = opener.whole(&args.main, access)?.with_deadline(args.deadline);
    let spares = opener.spares(&args.spares, access)?;
    let spares: Vec<Device> = spares.into_iter().map(|spare| spare.with_deadline(args.deadline)).collect();
    let recovered = examine(&spares, args.force || args.read_only)?;
    let name = args.mapper.clone().unwrap_or_else(|| plain_name(&recovered.superblock.name));
    mapper::check_name(&name)?;
    Ok(Opened { opener, main, spares, recovered, name })
}

/// Assembles the volume, and has the kernel carry it.
fn bring_up(args: &StockVolumeArgs, news: &News, word: Option<&mut Word>) -> anyhow::Result<Up> {
    let mut mapper = Control::open()?;
    let Opened { opener, main, spares, recovered, name } = open(args)?;
    let (shape, numbers) = found::shape_of(&main, &spares, &recovered)?;
    let uuid = found::uuid_of(&recovered);
    let there = found::existing(&mut mapper, &name, &uuid, (&shape, &numbers), &recovered)?;
    let mut claims = Vec::new();
    for device in std::iter::once(&main).chain(&spares) {
        claims.extend(found::only_ours(device, &name, &uuid)?);
    }
    if users::is_stacked(shape.main) {
        let text = "the main device is made of other devices, whose errors the kernel does not tell as its own: only reading finds what \
                    is bad ('dm-remap message VOLUME verify SECTORS')";
        news.say(Level::Warning, text);
    }
    let volume_name = plain_name(&recovered.superblock.name);
    let socket = args.control.clone();
    let socket =
        socket.unwrap_or_else(|| control::runtime_dir().join(format!("{volume_name}{CONTROL_SUFFIX}")));
    control::prepare_dir(&socket)?;
    let control = ControlSocket::bind(&socket)?;
    if let Some(word) = word {
        word.names(&name, shape.size);
    }
    let made = Made::or_found(&mut mapper, &name, &uuid, there.is_some())?;
    let (mapped, live) = there.unzip();
    let suspended = mapped.as_ref().is_some_and(|mapped| mapped.suspended);
    let loaded = mapped.as_ref().is_some_and(|mapped| mapped.loaded);
    if loaded {
        // Whoever loaded it did not bring it into service, and it may be of another time.
        mapper.clear(&name)?;
    }
    let figures = Arc::new(Figures::default());
    let carrier = Carrier {
        mapper: Box::new(mapper),
        name: name.clone(),
        shape,
        read_only: args.read_only,
        claims,
        take_claim,
        number_of: Device::number,
        figures: Arc::clone(&figures),
        news: news.clone(),
        live: live.filter(|live| !live.is_empty()),
        suspended: suspended.then(Instant::now),
    };
    drop(recovered);
    let assembly = Assembly {
        main,
        spares,
        opener,
        drills: Vec::new(),
        policy: args.policy,
        max_remaps: args.max_remaps,
        deadline: args.deadline,
        io: args.io,
        read_only: args.read_only,
        force: args.force,
        bypass: Some(Box::new(carrier)),
    };
    let mut service = assembly.open(news)?;
    let mut mapper = Control::open()?;
    let number = mapper.find(&name)?.with_context(|| format!("{name}: has vanished"))?.number;
    let path =
        mapper::settle_node(&name, number).with_context(|| format!("/dev/mapper/{name}: cannot be made"))?;
    made.keep();
    service.stock = Some(Stock {
        name,
        path,
        number,
        figures,
        heard: Arc::default(),
        source: std::sync::OnceLock::new(),
    });
    Ok(Up { service, control })
}

/// A mapped device that we made, which goes again unless it comes into service.
struct Made(Option<String>);

impl Made {
    fn or_found(mapper: &mut Control, name: &str, uuid: &str, found: bool) -> anyhow::Result<Self> {
        if found {
            return Ok(Self(None));
        }
        mapper.create(name, uuid)?;
        Ok(Self(Some(name.to_owned())))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(name) = &self.0 {
            // The reason why it goes is on its way to whoever asked.
            let _ = Control::open().and_then(|mut control| control.remove(name));
        }
    }
}

fn serve(args: &StockServeArgs, before: Option<Ended>, mut word: Word) -> anyhow::Result<ExitCode> {
    process::end_with_parent();
    // Locks of memory do not pass from one process to the next.
    stand_below_files();
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let (news, writer) = News::open()?;
    if let Some(ended) = before {
        news.say(
            Level::Error,
            &format!("started again: the process before this one ended by itself ({ended:?})"),
        );
    }
    let outcome = serve_until_told(args, signals, &news, &mut word);
    drop(news);
    writer.finish();
    outcome
}

fn serve_until_told(
    args: &StockServeArgs,
    mut signals: Signals,
    news: &News,
    word: &mut Word,
) -> anyhow::Result<ExitCode> {
    let Up { service, control } = bring_up(&args.volume, news, Some(word))?;
    let _stops = StopAtEnd(service.volume.clone());
    word.serves();
    let service = Arc::new(service);
    control.start(Arc::clone(&service) as Arc<dyn Answer>)?;
    let stop = (Arc::new(AtomicBool::new(false)), Wake::create()?);
    let sentry = if args.volume.read_only { None } else { watch(&service, news, stop.clone())? };
    announce(&service, &control)?;
    news.say(Level::Info, LIMIT);
    signals.forever().next();
    notify::send("STOPPING=1");
    stop.0.store(true, Ordering::Release);
    stop.1.wake();
    if let Some(sentry) = sentry {
        // A panic of it was printed by its own thread.
        let _ = sentry.join();
    }
    service.volume.stop();
    let name = service.stock.as_ref().map_or_else(String::new, |stock| stock.name.clone());
    match service.volume.settle() {
        Ok(()) => news.say(
            Level::Info,
            &format!(
                "stopped watching; {name} goes on by its table ('dm-remap stock remove {name}' takes it away)"
            ),
        ),
        Err(path) => {
            let path = path.display();
            news.say(Level::Warning, &format!("stopped; {path} did not flush: the last writes may be lost"));
        }
    }
    Ok(Exit::Done.into())
}

/// Begins to act on errors.
fn watch(
    service: &Service,
    news: &News,
    stop: (Arc<AtomicBool>, Arc<Wake>),
) -> anyhow::Result<Option<std::thread::JoinHandle<()>>> {
    let Some(stock) = &service.stock else { return Ok(None) };
    match ErrorWatch::open(&stock.name) {
        Ok(watch) => {
            let source = sentry::source_words(watch.source());
            stock.source.get_or_init(|| source);
            news.say(Level::Info, &format!("listening for errors to {source}"));
            Ok(Some(sentry::start(&service.volume, watch, news, &stock.heard, stop)?))
        }
        Err(error) => {
            let text = format!(
                "the kernel's word of errors cannot be had ({error}): only the message 'verify' finds what is bad"
            );
            news.say(Level::Warning, &text);
            Ok(None)
        }
    }
}

fn announce(service: &Service, control: &ControlSocket) -> anyhow::Result<()> {
    let report = service.report()?;
    let how = if report.read_only { "read-only" } else { report.state.as_str() };
    let at = service.stock.as_ref().map_or_else(String::new, |stock| stock.path.display().to_string());
    let line = format!(
        "serving '{}' ({}, {how}) at {at} (control socket {})\n",
        report.name,
        format_size(report.size),
        control.path().display()
    );
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it; the service goes on.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    notify::send("READY=1");
    Ok(())
}

/// `stock assemble`: the table is set up, and nobody stays.
fn assemble(args: &StockAssembleArgs) -> anyhow::Result<ExitCode> {
    let (news, writer) = News::open()?;
    let outcome = (|| {
        let Up { service, control } = bring_up(&args.volume, &news, None)?;
        drop(control);
        let report = service.report()?;
        service.volume.stop();
        let settled = service.volume.settle();
        settled.map_err(|path| anyhow::anyhow!("{}: did not flush", path.display()))?;
        let at = service.stock.as_ref().map_or_else(String::new, |stock| stock.path.display().to_string());
        let lost = report.table.lost_sectors;
        println!("'{}' ({}, {}) is at {at}", report.name, format_size(report.size), report.state);
        if lost > 0 {
            println!("{} are lost and read as errors", format_sectors(lost));
        }
        news.say(Level::Info, "nobody acts on errors: 'dm-remap stock serve' does");
        Ok(Exit::Done.into())
    })();
    drop(news);
    writer.finish();
    outcome
}

/// `stock remove`.
fn remove(args: &StockRemoveArgs) -> anyhow::Result<ExitCode> {
    mapper::check_name(&args.name)?;
    let mut control = Control::open()?;
    let name = &args.name;
    let Some(mapped) = control.find(name)? else {
        return Err(refusal(Exit::NotFound, format!("{name}: there is no mapped device of this name")));
    };
    if !mapped.uuid.starts_with(found::UUID_PREFIX) {
        let text = format!(
            "{name}: is not a stock table of ours (its UUID is '{}'): use 'dmsetup remove'",
            mapped.uuid
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    if let Some(pid) = served_by(name)? {
        let text = format!("{name}: process {pid} serves it: stop that first (kill {pid}, or its service)");
        return Err(refusal(Exit::Busy, text));
    }
    control.remove(name).map_err(|error| match error {
        mapper::MapperError::Busy { .. } => refusal(
            Exit::Busy,
            format!(
                "{name}: in use (opened {} times): unmount it, and stop what stands on it",
                mapped.open_count
            ),
        ),
        other => other.into(),
    })?;
    mapper::forget_node(name, mapped.number);
    println!("{name} is removed; the volume can be served in any way");
    Ok(Exit::Done.into())
}

/// The process that serves a mapped device, as far as this user can ask.
fn served_by(name: &str) -> anyhow::Result<Option<u32>> {
    for socket in control::sockets()? {
        let report = Client::connect(&socket.display().to_string()).and_then(|mut client| client.status());
        if let Ok(report) = report
            && report.mapper.is_some_and(|mapper| mapper.name == name)
        {
            return Ok(Some(report.pid));
        }
    }
    Ok(None)
}
