//! `serve`: a volume in service until it is told to stop.
//!
//! Invariant: clients can connect only after the volume is live; after the stop nothing is in flight, the socket files
//! are gone, and every acknowledged write is where the durable table says.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use remap_core::engine::{Counters, EngineConfig, Notice};
use remap_io::{Device, Drill};
use remap_nbd::{ConnectionLimits, Listen, Server, ServerConfig};
use remap_runtime::front::Export as _;
use remap_runtime::{Bypass, LaneCounters, OpenError, OpenOptions, OpenReport, Volume};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::adopt::plain_name;
use crate::cli::{DrillArg, DrillTarget, IoArg, PolicyArg, ServeArgs};
use crate::control::{self, Answer, CONTROL_SUFFIX, Control, NBD_SUFFIX};
use crate::exit::{Exit, refusal};
use crate::news::{self, Level, News};
use crate::open::{Access, Opener, recovery_refusal};
use crate::status_json::{DrillReport, StatusReport, Surroundings};
use crate::stock::Stock;
use crate::units::format_size;
use crate::wire::{Ask, PAGE, Reply, SpareHead, TRACE_SECONDS_MAX, TableHead, WireStage};
use crate::{message, notify};

/// Permissions of the NBD socket: its owner's only.
const SOCKET_MODE: u32 = 0o600;

/// A drill of a device.
pub(crate) struct RunningDrill {
    pub(crate) target: DrillTarget,
    pub(crate) drill: Arc<Drill>,
}

/// Counters at the moment they were cleared.
#[derive(Clone, Copy, Default)]
pub(crate) struct Baseline {
    pub(crate) counters: Counters,
    pub(crate) lanes: LaneCounters,
}

/// The volume in service, for those who ask about it.
pub(crate) struct Service {
    pub(crate) volume: Volume,
    /// What is open already.
    pub(crate) opener: Mutex<Opener>,
    pub(crate) deadline: Duration,
    pub(crate) drills: Vec<RunningDrill>,
    copy_failures: Arc<AtomicU64>,
    pub(crate) baseline: Mutex<Baseline>,
    /// Remapping is suspended because somebody asked for it, not because of a device.
    pub(crate) suspended_by_command: Arc<AtomicBool>,
    /// `None` with `--stdio`, of a mapped device, and after the stop.
    server: Mutex<Option<Arc<Server<Volume>>>>,
    /// The mapped device that carries it, if one does.
    pub(crate) stock: Option<Stock>,
}

impl Service {
    /// A volume in service that no clients are told about yet. `opener` knows what is open already.
    pub(crate) fn of(volume: Volume, opener: Opener, deadline: Duration) -> Self {
        Self {
            volume,
            opener: Mutex::new(opener),
            deadline,
            drills: Vec::new(),
            copy_failures: Arc::default(),
            baseline: Mutex::default(),
            suspended_by_command: Arc::default(),
            server: Mutex::default(),
            stock: None,
        }
    }

    fn server(&self) -> Option<Arc<Server<Volume>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The report for `status`.
    ///
    /// # Errors
    /// The volume was stopped.
    pub(crate) fn report(&self) -> anyhow::Result<StatusReport> {
        let status = self.volume.status()?;
        let drills = self.drills.iter().map(|running| {
            let counts = running.drill.counts();
            DrillReport {
                device: running.target.to_string(),
                enabled: running.drill.is_enabled(),
                bad_sectors: running.drill.bad_sectors(),
                operations: counts.operations,
                failed: counts.failed + counts.gone,
                healed_sectors: counts.healed_sectors,
            }
        });
        let server = self.server();
        let server = server.as_ref();
        let around = Surroundings {
            copy_failures: self.copy_failures.load(Ordering::Relaxed),
            suspended_by_command: self.suspended_by_command.load(Ordering::Relaxed),
            drills: drills.collect(),
            exports: server.map(|s| s.uris().iter().map(ToString::to_string).collect()).unwrap_or_default(),
            clients: server
                .map(|s| s.connections().into_iter().map(Into::into).collect())
                .unwrap_or_default(),
            mapper: self.stock.as_ref().map(Stock::report),
        };
        Ok(StatusReport::of(&status, around))
    }

    fn table(&self, send: &mut dyn FnMut(Reply) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let status = self.volume.status()?;
        let mut entries = self.volume.entries()?;
        entries.extend(self.volume.retired()?);
        let last = status.spares.iter().map(|spare| usize::from(spare.number) + 1).max().unwrap_or(0);
        let mut spares = vec![SpareHead::default(); last];
        for spare in &status.spares {
            if let Some(head) = spares.get_mut(usize::from(spare.number)) {
                *head = SpareHead {
                    path: spare.path.display().to_string(),
                    start: spare.start,
                    size: spare.size,
                };
            }
        }
        send(Reply::Table {
            table: TableHead {
                name: status.name,
                uuid: status.uuid,
                generation: status.generation,
                size: status.size,
                block_size: status.block_size,
                main: status.main.display().to_string(),
                spares,
            },
        })?;
        let mut pages = entries.chunks(PAGE).peekable();
        if pages.peek().is_none() {
            return send(Reply::Entries { entries: Vec::new(), last: true });
        }
        while let Some(page) = pages.next() {
            let entries = page.iter().map(Into::into).collect();
            send(Reply::Entries { entries, last: pages.peek().is_none() })?;
        }
        Ok(())
    }
}

impl Service {
    /// What was seen so far; then begins anew, or ends.
    fn trace(&self, seconds: Option<u32>) -> Vec<WireStage> {
        let trace = self.volume.trace();
        if seconds == Some(0) {
            trace.stop();
        }
        let seen = trace.read().into_iter().map(WireStage::from).collect();
        if let Some(seconds @ 1..) = seconds {
            trace.start(Duration::from_secs(seconds.min(TRACE_SECONDS_MAX).into()));
        }
        seen
    }
}

impl Answer for Service {
    fn answer(&self, ask: Ask, send: &mut dyn FnMut(Reply) -> anyhow::Result<()>) -> anyhow::Result<()> {
        match ask {
            Ask::Status => send(Reply::Status { status: Box::new(self.report()?) }),
            Ask::Message { words } => {
                let (text, ok) = message::answer(self, &words);
                send(Reply::Message { text, ok })
            }
            Ask::Entries => self.table(send),
            Ask::Trace { seconds } => send(Reply::Trace { stages: self.trace(seconds) }),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    // Before anything else opens descriptors.
    let inherited = remap_nbd::listen_fds();
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let (news, writer) = News::open()?;
    let outcome = serve(args, inherited, signals, &news);
    drop(news);
    writer.finish();
    outcome
}

fn serve(
    args: &ServeArgs,
    inherited: Vec<OwnedFd>,
    signals: Signals,
    news: &News,
) -> anyhow::Result<ExitCode> {
    let (service, name) = assemble(args, news)?;
    let _stops = StopAtEnd(service.volume.clone());
    let places = Places::choose(args, &name, inherited.is_empty());
    if let (Some(socket), false) = (&places.unix, args.stdio) {
        control::prepare_dir(socket)?;
    }
    control::prepare_dir(&places.control)?;
    if !args.stdio {
        let server = listen(args, &places, inherited, &service.volume)?;
        *service.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }
    let control = Control::bind(&places.control)?;
    let service = Arc::new(service);
    control.start(Arc::clone(&service) as Arc<dyn Answer>)?;
    stop_on_signal(signals, &service, &control)?;
    announce(args, &service, &control)?;
    let ended = match service.server() {
        Some(server) => server.run().context("the server failed"),
        None => remap_nbd::serve_stdio(&service.volume, Some(&name), limits(args))
            .context("the client on standard input"),
    };
    // Its socket files go with it; the control socket may still be asked.
    drop(service.server.lock().unwrap_or_else(PoisonError::into_inner).take());
    service.volume.stop();
    ended?;
    match service.volume.settle() {
        Ok(()) => news.say(Level::Info, "stopped; everything acknowledged is on the devices"),
        Err(path) => {
            let path = path.display();
            news.say(Level::Warning, &format!("stopped; {path} did not flush: the last writes may be lost"));
        }
    }
    Ok(Exit::Done.into())
}

/// Stops the volume however the service ends: its owner keeps the news open until then.
pub(crate) struct StopAtEnd(pub(crate) Volume);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Opens the devices and the volume on them; gives its name, fit for file names, too.
fn assemble(args: &ServeArgs, news: &News) -> anyhow::Result<(Service, String)> {
    let drills = drills_of(&args.drills, args.spares.len())?;
    let access = if args.read_only { Access::Read } else { Access::Write };
    let mut opener = if args.direct { Opener::direct_only() } else { Opener::auto() };
    let main = opener.whole(&args.main, access)?.with_deadline(args.deadline);
    let spares = opener.spares(&args.spares, access)?;
    let spares: Vec<Device> = spares.into_iter().map(|spare| spare.with_deadline(args.deadline)).collect();
    for device in std::iter::once(&main).chain(&spares) {
        if let Some(reason) = &device.limits().direct_refused {
            news.say(Level::Info, &format!("{}: through the page cache: {reason}", device.path().display()));
        }
    }
    let drilled = |mut device: Device, target| {
        for running in drills.iter().filter(|running| running.target == target) {
            device = device.with_drill(Arc::clone(&running.drill));
        }
        device
    };
    let main = drilled(main, DrillTarget::Main);
    let spares: Vec<Device> =
        spares.into_iter().enumerate().map(|(n, spare)| drilled(spare, DrillTarget::Spare(n))).collect();
    let assembly = Assembly {
        main,
        spares,
        opener,
        drills,
        policy: args.policy,
        max_remaps: args.max_remaps,
        deadline: args.deadline,
        io: args.io,
        read_only: args.read_only,
        force: args.force,
        bypass: None,
    };
    let service = assembly.open(news)?;
    let name = plain_name(&service.volume.superblock().name);
    Ok((service, name))
}

/// The opened devices of a volume, and how it is to be served.
pub(crate) struct Assembly {
    pub(crate) main: Device,
    pub(crate) spares: Vec<Device>,
    pub(crate) opener: Opener,
    pub(crate) drills: Vec<RunningDrill>,
    pub(crate) policy: Option<PolicyArg>,
    pub(crate) max_remaps: Option<u64>,
    pub(crate) deadline: Duration,
    pub(crate) io: IoArg,
    pub(crate) read_only: bool,
    pub(crate) force: bool,
    /// What carries the requests, if it is not us.
    pub(crate) bypass: Option<Box<dyn Bypass>>,
}

impl Assembly {
    /// Brings the volume into service; says what was found.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(self, news: &News) -> anyhow::Result<Service> {
        let copy_failures = Arc::new(AtomicU64::new(0));
        // A volume that is only looked at is suspended from the start.
        let suspended_by_command = Arc::new(AtomicBool::new(self.read_only));
        let block_sectors = Arc::new(OnceLock::new());
        let options = OpenOptions {
            engine: EngineConfig {
                policy: self.policy.map(Into::into),
                max_remaps: self.max_remaps,
                ..EngineConfig::default()
            },
            deadline: self.deadline,
            io: self.io.into(),
            read_only: self.read_only,
            force_identity: self.force,
            force_released: self.force,
            on_notice: Some(on_notice(news, &copy_failures, &suspended_by_command, &block_sectors)),
            bypass: self.bypass,
        };
        let opened = Volume::open(self.main, self.spares.clone(), options);
        let (volume, report) = opened.map_err(|error| match error {
            OpenError::Recovery(error) => recovery_refusal(&error, &self.spares),
            other => other.into(),
        })?;
        block_sectors.get_or_init(|| u64::from(volume.superblock().block_sectors()));
        say_what_was_found(&report, news);
        let drills = self.drills;
        Ok(Service {
            drills,
            copy_failures,
            suspended_by_command,
            ..Service::of(volume, self.opener, self.deadline)
        })
    }
}

/// Sets up the drills of a volume with this many spares.
///
/// # Errors
/// A drill is not understood, its files cannot be read, or it is for a spare that is not there.
pub(crate) fn drills_of(drills: &[DrillArg], spares: usize) -> anyhow::Result<Vec<RunningDrill>> {
    let running = |arg: &DrillArg| {
        if let DrillTarget::Spare(n) = arg.target
            && n >= spares
        {
            let text = format!("--drill {}: there are only {spares} spares (counted from 0)", arg.target);
            return Err(refusal(Exit::Usage, text));
        }
        let drill = Drill::parse(&arg.spec).map_err(|error| match error {
            remap_io::drill::DrillError::Syntax(error) => {
                refusal(Exit::Usage, format!("--drill {}: {error}", arg.target))
            }
            other => anyhow::Error::new(other).context(format!("--drill {}", arg.target)),
        })?;
        Ok(RunningDrill { target: arg.target, drill: Arc::new(drill) })
    };
    let drills: Vec<RunningDrill> = drills.iter().map(running).collect::<anyhow::Result<_>>()?;
    let caches: Vec<DrillTarget> =
        drills.iter().filter(|running| running.drill.is_cache()).map(|running| running.target).collect();
    if let Some((_, target)) =
        caches.iter().enumerate().find(|(index, target)| caches[..*index].contains(target))
    {
        return Err(refusal(Exit::Usage, format!("--drill {target}: give `volatile-cache` once per device")));
    }
    Ok(drills)
}

/// Tells the news. `block_sectors` is set as soon as it is known; what comes before is not about blocks.
fn on_notice(
    news: &News,
    copy_failures: &Arc<AtomicU64>,
    by_command: &Arc<AtomicBool>,
    block_sectors: &Arc<OnceLock<u64>>,
) -> remap_runtime::OnNotice {
    let (news, failures, block_sectors) =
        (news.clone(), Arc::clone(copy_failures), Arc::clone(block_sectors));
    let by_command = Arc::clone(by_command);
    Box::new(move |notice: &Notice| {
        match notice {
            Notice::CopyFailed { .. } => {
                failures.fetch_add(1, Ordering::Relaxed);
            }
            Notice::BreakerTripped { .. } if by_command.load(Ordering::Relaxed) => {
                return news.say(Level::Info, "remapping is suspended, as asked");
            }
            Notice::BreakerReset => by_command.store(false, Ordering::Relaxed),
            _ => {}
        }
        let (level, text) = news::words(notice, block_sectors.get().copied().unwrap_or(1));
        news.say(level, &text);
    })
}

fn say_what_was_found(report: &OpenReport, news: &News) {
    for warning in &report.warnings {
        news.say(Level::Warning, warning);
    }
    if report.repaired {
        let damaged = report.copies.iter().filter(|copy| copy.flaw.is_some()).count();
        if damaged > 0 {
            news.say(
                Level::Warning,
                &format!("{damaged} of 5 metadata copies were not in step; all were written anew"),
            );
        }
    }
}

/// Where to listen.
struct Places {
    unix: Option<PathBuf>,
    control: PathBuf,
}

impl Places {
    /// The Unix socket is there unless another way was asked for.
    fn choose(args: &ServeArgs, name: &str, nothing_inherited: bool) -> Self {
        let dir = control::runtime_dir();
        let default = || dir.join(format!("{name}{NBD_SUFFIX}"));
        let wanted = args.tcp.is_none() && nothing_inherited && !args.stdio;
        let unix = args.unix.clone().or_else(|| wanted.then(default));
        let beside = args.unix.as_deref().and_then(Path::parent).unwrap_or(&dir);
        let control = args.control.clone().unwrap_or_else(|| beside.join(format!("{name}{CONTROL_SUFFIX}")));
        Self { unix, control }
    }
}

fn listen(
    args: &ServeArgs,
    places: &Places,
    inherited: Vec<OwnedFd>,
    volume: &Volume,
) -> anyhow::Result<Arc<Server<Volume>>> {
    let mut listen: Vec<Listen> = inherited.into_iter().map(Listen::Fd).collect();
    listen.extend(places.unix.clone().map(|path| Listen::Unix(path, SOCKET_MODE)));
    listen.extend(args.tcp.map(Listen::Tcp));
    let config = ServerConfig { listen, limits: limits(args), ..ServerConfig::default() };
    Ok(Arc::new(Server::bind(config, Arc::new(volume.clone()))?))
}

fn limits(args: &ServeArgs) -> ConnectionLimits {
    ConnectionLimits { busy_poll: Duration::from_micros(args.busy_poll), ..ConnectionLimits::default() }
}

fn stop_on_signal(mut signals: Signals, service: &Arc<Service>, control: &Control) -> anyhow::Result<()> {
    let stop = service.server().map(|server| server.stop_handle());
    let (volume, socket) = (service.volume.clone(), control.path().to_owned());
    let body = move || {
        if signals.forever().next().is_none() {
            return;
        }
        notify::send("STOPPING=1");
        if let Some(stop) = stop {
            stop.stop();
            return;
        }
        // A client on standard input cannot be made to leave: finish what is in flight and go.
        volume.stop();
        let _ = volume.settle();
        let _ = std::fs::remove_file(socket);
        std::process::exit(i32::from(Exit::Done as u8));
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(body)?;
    Ok(())
}

/// Says that clients may come, to people and to the service manager.
fn announce(args: &ServeArgs, service: &Service, control: &Control) -> anyhow::Result<()> {
    let report = service.report()?;
    let at = match report.exports.as_slice() {
        [] if args.stdio => "standard input and output".to_owned(),
        [] => "inherited sockets".to_owned(),
        uris => uris.join(" and "),
    };
    let how = if args.read_only { "read-only" } else { report.state.as_str() };
    let line = format!(
        "serving '{}' ({}, {how}) at {at} (control socket {})\n",
        report.name,
        format_size(report.size),
        control.path().display()
    );
    // Nobody may be there to read it; the service goes on. Whoever hands over a socket or a pipe shares standard output,
    // and may be writing an image to it.
    if args.stdio || report.exports.is_empty() {
        let _ = std::io::stderr().write_all(line.as_bytes());
    } else {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
    notify::send("READY=1");
    Ok(())
}
