//! What the size of the table costs a client: random reads of a volume with more and more remaps.
//!
//! Invariant: everybody reads a main device of the same size; it is sparse, so that no disk has a say.

use remap_format::Policy;

use super::made::{Made, Shape};
use super::{Found, Setting, ratios};
use crate::fio::{self, Job, Target};
use crate::proc;
use crate::record::Figure;
use crate::server::Server;

/// Bytes of the main device: a block in sixteen is on the spare at most.
const SIZE: u64 = 64 << 30;
const DEPTH: u32 = 32;
const SIZES: [u64; 5] = [0, 1_000, 10_000, 100_000, 1_000_000];
const QUICK_SIZES: [u64; 3] = [0, 1_000, 100_000];

/// All figures.
///
/// # Errors
/// Files, servers, fio.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let sizes = setting.pick(&QUICK_SIZES[..], &SIZES);
    let make = |remaps: &u64| {
        let shape =
            Shape { size: SIZE, remaps: *remaps, spares: 1, written: false, policy: Policy::RemapOnly };
        Made::make(setting.folder, &format!("size{remaps}"), shape)
    };
    let volumes = sizes.iter().map(make).collect::<anyhow::Result<Vec<_>>>()?;
    let samples = setting.in_turns(sizes.len(), |which| {
        let socket = setting.path("nbd");
        let [log, pid] = ["log", "pid"].map(|name| setting.path(name));
        let server = Server::start(volumes[which].serve(setting.product, &socket), &socket, &log, &pid)?;
        let before = proc::of_tree(server.pid());
        let job = Job { depth: DEPTH, ..Job::small(Target::Nbd(&socket), "randread", SIZE) };
        let done = fio::run(setting.folder, setting.seconds, &[job])?;
        let cpu_us = (proc::of_tree(server.pid()) - before) * 1e6 / done[0].requests;
        Ok((done[0].requests / done[0].seconds / 1e3, done[0].p99_us, cpu_us))
    })?;
    let of = |which: usize, field: fn(&(f64, f64, f64)) -> f64| {
        samples[which].iter().map(field).collect::<Vec<f64>>()
    };
    let mut figures = Vec::new();
    for (name, unit, field) in [
        ("random reads", "thousand/s", (|s| s.0) as fn(&(f64, f64, f64)) -> f64),
        ("p99 of a read", "us", |s| s.1),
        ("server's processor time for a read", "us", |s| s.2),
    ] {
        for (which, &remaps) in sizes.iter().enumerate() {
            let figure = Figure::of(name, unit, &of(which, field)).by("dm-remap").at(remaps);
            figures.push(match which {
                0 => figure,
                _ => figure.against("0 remaps", &ratios(&of(which, field), &of(0, field))),
            });
        }
    }
    Ok(Found { figures, missing: Vec::new() })
}
