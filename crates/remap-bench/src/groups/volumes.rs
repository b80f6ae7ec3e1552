//! Several volumes in one process, and volumes that nobody uses.
//!
//! Invariant: one volume and eight are measured with as many connections and as many requests in flight.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use remap_format::Policy;
use remap_nbd::{Client, ClientOptions, Listen, Server as NbdServer, ServerConfig, Uri};

use super::made::{Made, Shape, device};
use super::{Found, Setting, ratios};
use crate::fio::{self, Job, Target};
use crate::ground::EXPORT;
use crate::proc;
use crate::record::Figure;
use crate::server::Server;

const VOLUMES: usize = 8;
/// Bytes of each main device: sparse.
const SIZE: u64 = 16 << 30;
/// Requests in flight for each of eight connections.
const DEPTH: u32 = 8;
/// Microseconds of processor time in a second that count as none.
const AT_REST_US: f64 = 1000.0;

/// All figures.
///
/// # Errors
/// Files, servers, fio.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut figures = Vec::new();
    let remaps = setting.pick(10_000, 100_000);
    let shape = Shape { size: SIZE, remaps, spares: 1, written: false, policy: Policy::RemapOnly };
    let make = |n| Made::make(setting.folder, &name(n), shape);
    let made = (0..VOLUMES).map(make).collect::<anyhow::Result<Vec<_>>>()?;
    figures.extend(together(setting, remaps)?);
    figures.extend(at_rest(setting, &made[0], remaps)?);
    Ok(Found { figures, missing: Vec::new() })
}

fn name(volume: usize) -> String {
    format!("volume{volume}")
}

fn socket(folder: &Path, volume: usize) -> PathBuf {
    folder.join(format!("nbd{volume}"))
}

/// One volume and eight in one process: rates, memory, threads.
fn together(setting: &Setting<'_>, remaps: u64) -> anyhow::Result<Vec<Figure>> {
    let counts = [1, VOLUMES];
    let samples = setting.in_turns(counts.len(), |which| {
        let server = hosted(setting, counts[which])?;
        let before = proc::of_tree(server.pid());
        let sockets: Vec<PathBuf> = (0..counts[which]).map(|n| socket(setting.folder, n)).collect();
        let connections = (VOLUMES / counts[which]) as u32;
        let small = |socket| Job::small(Target::Nbd(socket), "randread", SIZE);
        let jobs: Vec<Job<'_>> =
            sockets.iter().map(|socket| Job { depth: DEPTH, connections, ..small(socket) }).collect();
        let done = fio::run(setting.folder, setting.seconds, &jobs)?;
        let rate: f64 = done.iter().map(|done| done.requests / done.seconds).sum();
        let requests: f64 = done.iter().map(|done| done.requests).sum();
        let cpu_us = (proc::of_tree(server.pid()) - before) * 1e6 / requests;
        let resident = proc::resident_of(server.pid()) as f64 / 1e6;
        Ok([rate / 1e3, cpu_us, resident, proc::threads_of(server.pid()) as f64])
    })?;
    let of =
        |which: usize, field: usize| samples[which].iter().map(|s: &[f64; 4]| s[field]).collect::<Vec<_>>();
    let mut figures = Vec::new();
    for (field, (name, unit)) in [
        ("random reads, 8 connections of 8", "thousand/s"),
        ("server's processor time for a read", "us"),
        ("server's memory", "MB"),
        ("server's threads", "count"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{name}, {remaps} remaps each");
        for (which, count) in counts.into_iter().enumerate() {
            let figure = Figure::of(&name, unit, &of(which, field)).by("dm-remap").at(count as u64);
            figures.push(match which {
                0 => figure,
                _ => figure.against("1 volume", &ratios(&of(which, field), &of(0, field))),
            });
        }
    }
    Ok(figures)
}

/// A process that serves so many of the volumes.
fn hosted(setting: &Setting<'_>, count: usize) -> anyhow::Result<Server> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.arg("host").arg(setting.folder).arg(count.to_string());
    let [log, pid] = ["log", "pid"].map(|name| setting.path(name));
    // The last one to be served.
    Server::start(command, &socket(setting.folder, count - 1), &log, &pid)
}

/// Serves the first `count` volumes of a folder until it is killed.
///
/// # Errors
/// They cannot be opened or served.
pub(crate) fn host(folder: &Path, count: usize) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for n in 0..count {
        let file = |part: &str| device(&folder.join(format!("{}.{part}", name(n))));
        let (main, spare) = (file("main")?, file("spare0")?);
        let options = remap_runtime::OpenOptions::default();
        let (volume, _) = remap_runtime::Volume::open(main, vec![spare], options).context("a volume")?;
        let path = socket(folder, n);
        // That of a run before.
        let _ = std::fs::remove_file(&path);
        let config = ServerConfig { listen: vec![Listen::Unix(path, 0o600)], ..ServerConfig::default() };
        let server = NbdServer::bind(config, Arc::new(volume)).context("a server")?;
        threads.push(thread::spawn(move || server.run()));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a server panicked"))??;
    }
    Ok(())
}

/// What the product does while nobody wants anything: one volume, nobody connected, and four clients that say nothing.
fn at_rest(setting: &Setting<'_>, made: &Made, remaps: u64) -> anyhow::Result<Vec<Figure>> {
    let rest = Duration::from_secs(setting.pick(1, 5));
    let samples = setting.in_turns(2, |which| {
        let path = setting.path("rest");
        let [log, pid] = ["log", "pid"].map(|name| setting.path(name));
        let server = Server::start(made.serve(setting.product, &path), &path, &log, &pid)?;
        let connect = |_| Client::connect(&Uri::unix(&path, EXPORT), &ClientOptions::default());
        let clients = (0..4 * which).map(connect).collect::<Result<Vec<_>, _>>()?;
        // A start has an end.
        thread::sleep(rest / 2);
        let before = proc::scheduled(server.pid());
        thread::sleep(rest);
        let after = proc::scheduled(server.pid());
        ensure!(after.threads > 0, "the kernel does not say when threads run (CONFIG_SCHED_INFO)");
        ensure!(after.threads == before.threads, "the server is not at rest");
        drop(clients);
        let second = rest.as_secs_f64();
        Ok([(after.us - before.us) / second, (after.wakes - before.wakes) / second])
    })?;
    let mut figures = Vec::new();
    for (who, samples) in ["nobody connected", "4 idle clients"].into_iter().zip(samples) {
        let of = |field: usize| samples.iter().map(|s: &[f64; 2]| s[field]).collect::<Vec<_>>();
        let time = Figure::of("processor time in a second of rest", "us", &of(0)).by(who).at(remaps);
        // Of next to nothing the spread says nothing.
        figures.push(Figure { spread: None, ..time.at_most(AT_REST_US) });
        let wakes = Figure::of("times woken in a second of rest", "count", &of(1)).by(who).at(remaps);
        figures.push(Figure { spread: None, ..wakes });
    }
    Ok(figures)
}
