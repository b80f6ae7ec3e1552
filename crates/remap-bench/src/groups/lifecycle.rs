//! The way in and the way out: adopt, open, close, release.
//!
//! Invariant: each is timed from the command's start to its end; a volume is released with its blocks on the spare.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use remap_format::Policy;

use super::made::{BLOCK, Made, Shape, create};
use super::{Found, Setting};
use crate::ground::{EXPORT, SPARE_MIN, SPARE_PER_REMAP};
use crate::needs;
use crate::record::Figure;
use crate::scatter;
use crate::server::Server;

/// Bytes of the main device.
const SIZE: u64 = 16 << 30;

/// All figures.
///
/// # Errors
/// Files, commands.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut figures = Vec::new();
    for remaps in [0, setting.pick(1_000, 100_000)] {
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..setting.rounds {
            times[0].push(adopt(setting, remaps)?);
            setting.go_on()?;
            for (all, one) in times[1..].iter_mut().zip(live(setting, remaps)?) {
                all.push(one);
            }
            setting.go_on()?;
        }
        let names = [
            "adopt, so many bad sectors known",
            "open, to first connection",
            "close",
            "release, so many blocks go back",
        ];
        for (name, times) in names.into_iter().zip(&times) {
            figures.push(Figure::of(name, "ms", times).by("dm-remap").at(remaps));
        }
    }
    Ok(Found { figures, missing: Vec::new() })
}

/// Milliseconds.
fn timed(command: Command) -> anyhow::Result<f64> {
    let begin = Instant::now();
    needs::output(command)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

fn adopt(setting: &Setting<'_>, remaps: u64) -> anyhow::Result<f64> {
    let [main, spare, list] = ["main", "spare", "list"].map(|name| setting.path(name));
    create(&main, SIZE, false)?;
    let mut sectors: Vec<u64> = scatter::entries_over(SIZE / BLOCK, remaps).map(|e| e.block * 8).collect();
    sectors.sort_unstable();
    let lines: Vec<String> = sectors.iter().map(u64::to_string).collect();
    fs::write(&list, lines.join("\n") + "\n").context("the list of bad sectors")?;
    let mut command = Command::new(setting.product);
    command.arg("adopt").arg(&main).arg("--spare").arg(&spare).args(["--name", EXPORT, "--create-spare"]);
    command.arg((remaps * SPARE_PER_REMAP + SPARE_MIN).to_string());
    if remaps > 0 {
        command.arg("--map").arg(&list).args(["--map-format", "list"]);
    }
    let took = timed(command)?;
    remove([&main, &spare, &list])?;
    Ok(took)
}

/// Open, close and release.
fn live(setting: &Setting<'_>, remaps: u64) -> anyhow::Result<[f64; 3]> {
    let shape = Shape { size: SIZE, remaps, spares: 1, written: false, policy: Policy::RemapOnly };
    let made = Made::make(setting.folder, "live", shape)?;
    let socket = setting.path("nbd");
    let [log, pid] = ["log", "pid"].map(|name| setting.path(name));
    let server = Server::start(made.serve(setting.product, &socket), &socket, &log, &pid)?;
    let open = server.start_s * 1e3;
    let begin = Instant::now();
    drop(server);
    let close = begin.elapsed().as_secs_f64() * 1e3;
    let mut command = made.command(setting.product, "release");
    command.arg("--yes");
    let release = timed(command)?;
    made.remove();
    Ok([open, close, release])
}

fn remove<const N: usize>(files: [&Path; N]) -> anyhow::Result<()> {
    files.into_iter().try_for_each(fs::remove_file).context("removing files")
}
