//! Messages that change which spares a volume has.
//!
//! Invariant: a spare is taken in only if it is empty, and the reply says with which spares the volume must be started from now on.

use std::sync::PoisonError;

use remap_io::Device;
use remap_runtime::SpareError;

use crate::open::{Access, SpareArg};
use crate::serve::Service;
use crate::units::format_count;

/// Is the first argument of this message a spare?
pub(super) fn names_a_spare(message: &str) -> bool {
    ["add-spare", "migrate"].iter().any(|word| message.eq_ignore_ascii_case(word))
}

/// `add-spare SPARE [force]`.
pub(super) fn add(service: &Service, spare: &str, force: bool) -> Result<String, String> {
    let number = join(service, spare, true, force)?;
    Ok(format!("{spare} is spare {number} now; {}", start_with(service)))
}

/// `retire-spare N`.
pub(super) fn retire(service: &Service, number: &str) -> Result<String, String> {
    let number = number_of(number)?;
    let (path, moved) = leave(service, number)?;
    Ok(format!(
        "{path} has left the volume ({} moved off it); {}",
        format_count(moved, "block"),
        start_with(service)
    ))
}

/// `migrate SPARE [N]`.
pub(super) fn migrate(service: &Service, spare: &str, number: Option<&str>) -> Result<String, String> {
    let from = match (number, service.volume.spares().as_slice()) {
        (Some(number), _) => number_of(number)?,
        (None, [(only, _)]) => *only,
        (None, several) => {
            let known: Vec<String> =
                several.iter().map(|(n, device)| format!("{n} ({})", device.path().display())).collect();
            return Err(format!("error: which spare is it to replace? add its number: {}", known.join(", ")));
        }
    };
    if service.volume.spares().iter().all(|(n, _)| *n != from) {
        return Err(format!("error: {}", SpareError::NoSuchSpare(from)));
    }
    // All copies move at once in the second step, and may grow with the larger spare.
    let number = join(service, spare, false, false)?;
    let (path, moved) = leave(service, from)
        .map_err(|why| format!("{why} ({spare} is spare {number} now, and spare {from} has not left)"))?;
    Ok(format!(
        "{spare} is spare {number} now, and {path} has left the volume ({} moved); {}",
        format_count(moved, "block"),
        start_with(service)
    ))
}

fn number_of(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("error: '{text}' is not the number of a spare (status shows them)"))
}

fn join(service: &Service, spare: &str, copies: bool, force: bool) -> Result<u8, String> {
    let arg: SpareArg = spare.parse().map_err(|why| format!("error: {spare}: {why}"))?;
    let ours = service.stock.as_ref().map(|_| crate::stock::may_join(&arg.path)).transpose();
    let _ours = ours.map_err(|error| format!("error: {error:#}"))?;
    let mut opener = service.opener.lock().unwrap_or_else(PoisonError::into_inner);
    let device = opener.spare(&arg, Access::Write).map_err(|error| format!("error: {error:#}"))?;
    let device = device.with_deadline(service.deadline);
    service.volume.add_spare(device.clone(), copies, force).map_err(|error| {
        opener.forget(&device);
        format!("error: {error}")
    })
}

fn leave(service: &Service, number: u8) -> Result<(String, u64), String> {
    let device: Option<Device> =
        service.volume.spares().into_iter().find(|(n, _)| *n == number).map(|(_, device)| device);
    let moved = service.volume.retire_spare(number).map_err(|error| format!("error: {error}"))?;
    let Some(device) = device else { return Err(format!("error: {}", SpareError::NoSuchSpare(number))) };
    service.opener.lock().unwrap_or_else(PoisonError::into_inner).forget(&device);
    Ok((device.path().display().to_string(), moved))
}

/// With which spares the volume must be started from now on.
fn start_with(service: &Service) -> String {
    let words: Vec<String> = service
        .volume
        .spares()
        .iter()
        .map(|(_, device)| match device.start() {
            0 => format!("--spare {}", device.path().display()),
            start => format!("--spare {}@{start}+{}", device.path().display(), device.size()),
        })
        .collect();
    format!("from now on start the volume with {}", words.join(" "))
}
