//! Devices larger than any disk at hand: how long a volume takes to come, and how much memory it has then.
//!
//! Invariant: main devices are sparse; metadata are all there.

use remap_format::Policy;

use super::made::{Made, Shape};
use super::{Found, Setting, metadata};
use crate::proc;
use crate::record::Figure;
use crate::server::Server;

/// Bytes of a terabyte, as disks are sold.
const TERABYTE: u64 = 1_000_000_000_000;
/// MB that a server may have in use with 100,000 remaps.
const GOAL_MB: f64 = 100.0;

/// Terabytes and remaps.
const CASES: [(u64, u64); 6] =
    [(10, 0), (10, 100_000), (10, 1_000_000), (100, 0), (100, 100_000), (100, 1_000_000)];
const QUICK: [(u64, u64); 3] = [(10, 0), (10, 100_000), (100, 100_000)];

/// All figures.
///
/// # Errors
/// Files, volumes, servers.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut figures = Vec::new();
    for &(terabytes, remaps) in setting.pick(&QUICK[..], &CASES) {
        eprintln!("scale: {terabytes} TB, {remaps} remaps");
        let size = terabytes * TERABYTE / 4096 * 4096;
        let shape = Shape { size, remaps, spares: 1, written: false, policy: Policy::RemapOnly };
        let made = Made::make(setting.folder, "scale", shape)?;
        let mut found = metadata::assembly(setting, &made, remaps)?;
        let (mut starts, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..setting.rounds {
            let socket = setting.path("nbd");
            let command = made.serve(setting.product, &socket);
            let [log, pid] = ["log", "pid"].map(|name| setting.path(name));
            let server = Server::start(command, &socket, &log, &pid)?;
            starts.push(server.start_s * 1e3);
            memory.push(proc::resident_of(server.pid()) as f64 / 1e6);
            setting.go_on()?;
        }
        found.push(Figure::of("server's start to first connection", "ms", &starts).at(remaps).by("dm-remap"));
        let memory = Figure::of("server's memory", "MB", &memory).at(remaps).by("dm-remap");
        found.push(if remaps == 100_000 { memory.at_most(GOAL_MB) } else { memory });
        figures
            .extend(found.into_iter().map(|f| Figure { name: format!("{terabytes} TB: {}", f.name), ..f }));
        made.remove();
    }
    Ok(Found { figures, missing: Vec::new() })
}
