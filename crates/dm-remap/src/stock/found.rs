//! Before a mapped device is touched: may its devices be used, and what is there already?
//!
//! Invariant: this only looks. A device that anybody but this volume's own mapped device uses, a mapped device of another UUID, and a table
//! that sends requests elsewhere than the metadata say are refused.

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_core::units::SECTOR_SIZE;
use remap_io::Device;
use remap_io::mapper::{DeviceMapper, DeviceNumber, Mapped, Segment};
use remap_io::users::{self, Holder};

use super::carrier::{Claimed, take_claim};
use super::table::{Shape, SpareNumber, disagreement};
use crate::exit::{Exit, refusal};

/// What the UUIDs of our mapped devices begin with.
pub(crate) const UUID_PREFIX: &str = "DM-REMAP-";

/// The UUID of a volume's mapped device.
pub(super) fn uuid_of(recovered: &Recovered) -> String {
    format!("{UUID_PREFIX}{}", uuid::Uuid::from_bytes(recovered.superblock.volume))
}

/// The volume as a table sees it, and its spares' numbers.
///
/// # Errors
/// A device will not do.
pub(super) fn shape_of(
    main: &Device,
    spares: &[Device],
    recovered: &Recovered,
) -> anyhow::Result<(Shape, Vec<SpareNumber>)> {
    let superblock = &recovered.superblock;
    let logical = main.limits().logical_block.max(superblock.main.logical_block);
    if let Some((spare, text)) =
        spares.iter().find_map(|s| Some((s, coarse(s.limits().logical_block, logical)?)))
    {
        return Err(refusal(Exit::Mismatch, format!("{}: {text}", spare.path().display())));
    }
    let shape = Shape {
        size: superblock.main.size / SECTOR_SIZE,
        block: superblock.block_sectors(),
        unit: u64::from(logical) / SECTOR_SIZE,
        main: number_of(main)?,
    };
    let mut numbers = Vec::with_capacity(spares.len());
    for (spare, place) in (0u8..).zip(&recovered.devices) {
        let Some(device) = place.and_then(|place| spares.get(place)) else { continue };
        let start = device.start() / SECTOR_SIZE;
        numbers.push(SpareNumber { spare, device: number_of(device)?, start });
    }
    Ok((shape, numbers))
}

/// Why a spare with logical blocks of so many bytes will not do, if it will not.
fn coarse(spare: u32, main: u32) -> Option<String> {
    (spare > main).then(|| {
        format!(
            "has logical blocks of {spare} bytes, the main device of {main}: the kernel cannot put pieces of it into one device; \
             use 'dm-remap serve', or another spare"
        )
    })
}

/// The number of a block device.
///
/// # Errors
/// It is a file.
pub(super) fn number_of(device: &Device) -> anyhow::Result<DeviceNumber> {
    device.number().with_context(|| format!("{}: is not a block device", device.path().display()))
}

/// Files cannot be in a table; said before anything is opened.
///
/// # Errors
/// It is a file.
pub(super) fn wants_block_device(path: &std::path::Path) -> anyhow::Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let path = path.display();
    let text = format!(
        "{path}: is a file, and device-mapper needs block devices: attach it with 'losetup --find --show --direct-io=on {path}' and \
         give that, or use 'dm-remap serve'"
    );
    Err(refusal(Exit::Mismatch, text))
}

/// Sees to it that nobody but the mapped device `uuid` uses a device; claims one that nothing stands on.
///
/// # Errors
/// Somebody does.
pub(super) fn only_ours(device: &Device, name: &str, uuid: &str) -> anyhow::Result<Option<Claimed>> {
    let number = number_of(device)?;
    let holders = users::holders(number);
    if let Some(text) = foreign(&holders, name, uuid) {
        let text = format!("{}: in use by {text}", device.path().display());
        return Err(refusal(Exit::Busy, text));
    }
    if !holders.is_empty() {
        return Ok(None);
    }
    Ok(Some(Claimed { number, _claim: take_claim(device.path())? }))
}

/// A holder that is not the mapped device `name` of this `uuid`, in words, and what is to be done.
fn foreign(holders: &[Holder], name: &str, uuid: &str) -> Option<String> {
    let ours = Some((name, uuid));
    let other = holders.iter().find(|h| h.mapped.as_ref().map(|(n, u)| (n.as_str(), u.as_str())) != ours)?;
    Some(match &other.mapped {
        Some((there, found)) if found == uuid => format!(
            "this volume's own mapped device, which is called {there}: use '--mapper {there}', or first 'dm-remap stock remove {there}'"
        ),
        Some((there, _)) => format!("the mapped device {there} ({}): stop that first", other.name),
        None => format!("{}: stop that first", other.name),
    })
}

/// The mapped device of this name, if it is this volume's, and the table that it carries.
///
/// # Errors
/// It is another one's; or it carries requests to where the metadata do not say.
pub(super) fn existing(
    mapper: &mut dyn DeviceMapper,
    name: &str,
    uuid: &str,
    (shape, spares): (&Shape, &[SpareNumber]),
    recovered: &Recovered,
) -> anyhow::Result<Option<(Mapped, Vec<Segment>)>> {
    let Some(mapped) = mapper.find(name)? else { return Ok(None) };
    if mapped.uuid != uuid {
        let whose = match mapped.uuid.as_str() {
            "" => "one without a UUID".to_owned(),
            other => format!("{other}, this volume's is {uuid}"),
        };
        let text = format!("{name}: is another mapped device ({whose}): choose another name with --mapper");
        return Err(refusal(Exit::Busy, text));
    }
    let live = if mapped.live { mapper.table(name)? } else { Vec::new() };
    if mapped.suspended {
        // Whoever suspended it had not resumed it: since then nobody wrote through it, whatever its table says.
        return Ok(Some((mapped, live)));
    }
    let entries: Vec<_> = recovered.table.iter().collect();
    if let Some(sector) = disagreement(&live, shape, spares, &entries, users::is_present) {
        let text = format!(
            "{name}: carries requests of sector {sector} to another place than the metadata on the spares say; somebody changed one of the \
             two (dmsetup, or a metadata command). Nothing was changed. To go by the metadata: unmount it, 'dm-remap stock remove \
             {name}', and start again"
        );
        return Err(refusal(Exit::Mismatch, text));
    }
    Ok(Some((mapped, live)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_with_larger_logical_blocks_will_not_do() {
        assert!(
            coarse(4096, 512)
                .unwrap()
                .starts_with("has logical blocks of 4096 bytes, the main device of 512")
        );
        assert_eq!((coarse(512, 512), coarse(512, 4096)), (None, None));
    }

    #[test]
    fn only_this_volumes_own_device_may_stand_on_it() {
        let holder = |name: &str, mapped: Option<(&str, &str)>| Holder {
            name: name.into(),
            mapped: mapped.map(|(name, uuid)| (name.into(), uuid.into())),
        };
        let ours = holder("dm-3", Some(("disk", "DM-REMAP-1")));
        let told = |holders: &[Holder]| foreign(holders, "disk", "DM-REMAP-1");
        assert_eq!(told(&[]), None);
        assert_eq!(told(std::slice::from_ref(&ours)), None);
        let other = holder("dm-4", Some(("vg-lv", "LVM-x")));
        assert_eq!(told(&[ours, other]), Some("the mapped device vg-lv (dm-4): stop that first".into()));
        assert_eq!(told(&[holder("md0", None)]), Some("md0: stop that first".into()));
        // A target without a UUID, such as one of the module.
        assert!(told(&[holder("dm-5", Some(("r", "")))]).is_some());
        // It was set up by another name.
        let text = told(&[holder("dm-3", Some(("sdb", "DM-REMAP-1")))]).unwrap();
        assert!(text.contains("'--mapper sdb'") && text.contains("'dm-remap stock remove sdb'"), "{text}");
    }
}
