//! What each of the stress commands asks of the one engine.
//!
//! Invariant: a plan has everything that tells the commands apart; the engine does not know which one runs.

use std::time::Duration;

use super::mix::{CONCURRENT, DATABASE, FILE_SERVER, LARGE, MIXED, Stream, VIRTUALIZATION};
use crate::cli::{StressAction, StressArgs};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Requests in flight by intensity, 1 to 4.
const DEPTHS: [usize; 4] = [4, 16, 64, 256];
/// Names of the intensities.
const INTENSITIES: [&str; 4] = ["light", "moderate", "heavy", "extreme"];
/// Names of the workloads.
const WORKLOADS: [&str; 4] = ["database", "file server", "virtualization", "mixed"];

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The command.
    pub command: &'static str,
    /// What it does, for people.
    pub about: String,
    pub mix: &'static [Stream],
    /// Requests in flight, all workers together.
    pub in_flight: usize,
    pub duration: Duration,
    /// Bytes of a volume that it makes.
    pub size: u64,
    /// So much of it was asked for.
    pub wanted: Option<u64>,
    /// Memory and descriptors must not grow, and the metadata are compared with the table in every window.
    pub endurance: bool,
}

/// One of four by its number from `first` on; arguments are checked before.
fn pick<T: Copy>(all: [T; 4], number: u32, first: u32) -> T {
    all[usize::try_from(number.saturating_sub(first)).unwrap_or(0).min(3)]
}

impl Plan {
    /// The plan of a command, and its arguments.
    pub(crate) fn of(action: &StressAction) -> (Self, &StressArgs) {
        match action {
            StressAction::HighConcurrency(args) => {
                let plan = Self {
                    command: "high-concurrency",
                    about: format!("{} operations of 4 KiB in flight, 70 % reads", args.operations),
                    mix: CONCURRENT,
                    in_flight: usize::try_from(args.operations).unwrap_or(1),
                    duration: Duration::from_secs(args.seconds),
                    wanted: args.area.size,
                    size: args.area.size.unwrap_or(GIB),
                    endurance: false,
                };
                (plan, &args.common)
            }
            StressAction::TbScale(args) => {
                let plan = Self {
                    command: "tb-scale",
                    about: format!("a data set of {} GiB: loaded, read at random, scanned", args.dataset_gb),
                    mix: LARGE,
                    in_flight: 32,
                    duration: args.minutes,
                    wanted: Some(args.dataset_gb * GIB),
                    size: args.dataset_gb * GIB,
                    endurance: false,
                };
                (plan, &args.common)
            }
            StressAction::Endurance(args) => {
                let plan = Self {
                    command: "endurance",
                    about: format!("a mixed load of {} intensity", pick(INTENSITIES, args.intensity, 1)),
                    mix: MIXED,
                    in_flight: pick(DEPTHS, args.intensity, 1),
                    duration: args.hours,
                    wanted: args.area.size,
                    size: args.area.size.unwrap_or(512 * MIB),
                    endurance: true,
                };
                (plan, &args.common)
            }
            StressAction::Production(args) => {
                let plan = Self {
                    command: "production",
                    about: format!(
                        "a {} load of {} intensity",
                        pick(WORKLOADS, args.workload, 0),
                        pick(INTENSITIES, args.intensity, 1)
                    ),
                    mix: pick([DATABASE, FILE_SERVER, VIRTUALIZATION, MIXED], args.workload, 0),
                    in_flight: pick(DEPTHS, args.intensity, 1),
                    duration: args.minutes,
                    wanted: args.area.size,
                    size: args.area.size.unwrap_or(4 * GIB),
                    endurance: false,
                };
                (plan, &args.common)
            }
        }
    }
}
